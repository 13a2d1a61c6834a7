"""Where a model goes: the disk that has most of it already, else the one with most room."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cached.config import Config
from cached.daemon.space.disk import Disk
from cached.daemon.space.disks import Disks
from cached.daemon.space.room import Needs, Plan, Reserved, Room
from cached.daemon.transfer.download import Batch
from cached.daemon.transfer.fetcher import Fetcher, Network
from cached.daemon.transfer.workers import Workers
from cached.errors import CachedError, NoSpace, StoreDegraded
from cached.model import Digest, Listing
from cached.worker.messages import Remote
from cached.worker.shards import index_of, refuse_absent_of


@dataclass(frozen=True, slots=True)
class Place:
    """A disk, with what makes room and fetches there."""

    disk: Disk
    room: Room
    fetcher: Fetcher
    workers: Workers

    async def fetch_index(self, needs: Needs, remote: Remote, batch: Batch) -> dict[str, Digest]:
        """Of an LLM, the list of its shards comes before them, so that half an upload is refused at its first byte.

        By key, nothing when the model has no such list or it is here. ModelIncomplete when it names what is not there.
        """
        name = await self.disk.do(index_of, needs.keys)
        if name is None:
            return {}
        key, found = needs.keys[name], {}
        if key in needs.wants:
            found = await self.fetcher.fetch(remote, {key: needs.wants[key]}, batch)
        digest = found[key] if found else needs.digests[name]
        ref = needs.listing.ref
        shards = await self.workers.shards(ref, name, self.disk.store.blobs.path(digest))
        await self.disk.do(refuse_absent_of, ref, name, shards, needs.keys)
        return found


class Places:
    """One for each disk. Use from the event loop only."""

    def __init__(self, config: Config, disks: Disks, workers: Workers, network: Network) -> None:
        self._config, self._disks = config, disks
        self._all = [self._place(disk, workers, network) for disk in disks]

    def _place(self, disk: Disk, workers: Workers, network: Network) -> Place:
        def elsewhere(digest: Digest) -> Path | None:
            return self._disks.blob(digest, but=disk)

        fetcher = Fetcher(self._config, disk, workers, network, elsewhere, self._disks.doubt)
        return Place(disk, Room(self._config, disk), fetcher, workers)

    def __iter__(self) -> Iterator[Place]:
        return iter(self._all)

    async def reserve(self, listing: Listing) -> tuple[Place, Reserved]:
        """On the first disk that takes it, a snapshot whole on one; else the refusal of the one that suits best."""
        refusal: CachedError | None = None
        for place in await self._order(listing):
            try:
                return place, await place.room.reserve(listing)
            except (NoSpace, StoreDegraded) as error:
                refusal = refusal or error
        assert refusal is not None  # There is at least one disk.
        raise refusal

    async def plan(self, listing: Listing) -> tuple[Disk, Plan]:
        """What `reserve` would find, without changing anything."""
        plans = [(place.disk, await place.room.plan(listing)) for place in await self._order(listing)]
        return next(((disk, plan) for disk, plan in plans if plan.why is None), plans[0])

    async def here(self, listing: Listing) -> list[tuple[Place, Needs]]:
        """What each disk has of it, those that can be written to first; a disk that cannot say is left out."""
        found = []
        for place in sorted(self._all, key=lambda each: each.disk.degraded is not None):
            try:
                found.append((place, await place.room.needs(listing)))
            except CachedError:
                continue
        return found

    async def _order(self, listing: Listing) -> list[Place]:
        """Only disks that can be written to, unless none can: then its refusal says why."""
        well = [place for place in self._all if place.disk.degraded is None] or self._all[:1]
        if len(well) == 1:
            return well
        ranks = []
        for number, place in enumerate(well):
            try:
                needs, usage = await place.room.needs(listing), await place.disk.do(place.disk.store.usage)
                # Where most of it is something may go for the rest; else where nothing has to.
                apt = 2 * needs.ties >= needs.unique or await place.room.fits(needs)
            except CachedError:  # It has degraded just now, and would refuse.
                continue
            ranks.append((not apt, -needs.ties, usage.used + usage.reserved - usage.limit, number))
        return [well[rank[-1]] for rank in sorted(ranks)] or well[:1]
