"""The choice of a disk for a model: the one that has most of it already, else the one with most room."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cached.config import Config
from cached.daemon.access.callers import Caller
from cached.daemon.access.people import People
from cached.daemon.runtime.peer import Peer
from cached.daemon.space.disk import Disk
from cached.daemon.space.disks import Disks
from cached.daemon.space.needs import Needs
from cached.daemon.space.reservation import Plan, Reserved, Room
from cached.daemon.transfer.download import Batch
from cached.daemon.transfer.fetcher import Fetcher
from cached.daemon.transfer.network import Network
from cached.daemon.transfer.workers import Workers
from cached.errors import CachedError, NoSpace, StoreDegraded
from cached.model import Digest, Listing
from cached.worker.messages import Remote
from cached.worker.shards import index_of, refuse_absent_of


@dataclass(frozen=True, slots=True)
class Place:
    """A disk, with the parts that make room and fetch there."""

    disk: Disk
    room: Room
    fetcher: Fetcher
    workers: Workers

    async def fetch_index(self, needs: Needs, remote: Remote, batch: Batch) -> dict[str, Digest]:
        """Fetch the list of the shards of an LLM before them, so that an incomplete upload is refused at its first
        byte.

        Return its digest by key; empty when the model has no such list or it is cached. Raise ModelIncomplete when the
        list names files that are not there.
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
    """The places of this node, one for each disk. Use from the event loop only."""

    def __init__(self, config: Config, disks: Disks, workers: Workers, network: Network, people: People) -> None:
        self._config, self._disks, self._people = config, disks, people
        self._all = [self._place(disk, workers, network) for disk in disks]

    def _place(self, disk: Disk, workers: Workers, network: Network) -> Place:
        def elsewhere(digest: Digest) -> Path | None:
            return self._disks.blob(digest, but=disk)

        room = Room(self._config, disk)
        fetcher = Fetcher(self._config, disk, workers, network, elsewhere, self._disks.doubt, room.secure)
        return Place(disk, room, fetcher, workers)

    def __iter__(self) -> Iterator[Place]:
        return iter(self._all)

    async def reserve(self, listing: Listing, caller: Caller) -> tuple[Place, Reserved]:
        """Reserve on the first disk that accepts the listing, and return both: a snapshot is complete on one disk. If
        none accepts it, raise the refusal of the disk that suits best."""
        refusal: CachedError | None = None
        uid = await self._account(caller)
        places = [place for place, _ in await self._plans(listing, uid)] if len(self._well) > 1 else self._well
        for place in places:
            try:
                return place, await place.room.reserve(listing, uid)
            except (NoSpace, StoreDegraded) as error:
                refusal = refusal or error
        assert refusal is not None  # There is at least one disk.
        raise refusal

    async def plan(self, listing: Listing, caller: Caller) -> tuple[Disk, Plan]:
        """Return the disk and the plan that `reserve` would choose, without changing anything."""
        plans = await self._plans(listing, await self._account(caller))
        place, plan = next((each for each in plans if each[1].refusal is None), plans[0])
        return place.disk, plan

    async def here(self, listing: Listing) -> list[tuple[Place, Needs]]:
        """Return the needs of the listing on each disk, disks that can be written to first. A disk that cannot tell is
        left out."""
        found = []
        for place in sorted(self._all, key=lambda each: each.disk.degraded is not None):
            try:
                found.append((place, await place.room.needs(listing)))
            except CachedError:
                continue
        return found

    async def _account(self, caller: Caller) -> int | None:
        """Return the user whose share the model counts towards; None for the daemon and administrators."""
        if caller.uid is None or await self._people.administers(Peer(0, caller.uid, caller.gid)):
            return None
        return caller.uid

    @property
    def _well(self) -> list[Place]:
        """The disks that can be written to. If there are none, the first disk, whose refusal gives the reason."""
        return [place for place in self._all if place.disk.degraded is None] or self._all[:1]

    async def _plans(self, listing: Listing, uid: int | None) -> list[tuple[Place, Plan]]:
        """Return each disk's place and plan, the best first."""
        ranks = []
        for number, place in enumerate(self._well):
            try:
                plan = await place.room.plan(listing, uid)
            except CachedError:  # It has degraded just now, and would refuse.
                continue
            ranks.append((*_rank(plan), number, place, plan))
        found = [(rank[-2], rank[-1]) for rank in sorted(ranks, key=lambda rank: rank[:-2])]
        return found or [(self._well[0], await self._well[0].room.plan(listing, uid))]


def _rank(plan: Plan) -> tuple[bool, bool, int, float, int]:
    """Return a sort key that puts the best disk first: one where the model fits; then one that has most of it, or else
    where nothing has to give way; then the one that has more of it; then the one whose victims were last used the
    longest ago; then the one with most room."""
    needs, usage = plan.needs, plan.usage
    apt = 2 * needs.ties >= needs.unique or not (plan.victims or plan.stops)
    latest = max((victim.used_at for victim in plan.victims), default=0.0)
    return plan.refusal is not None, not apt, -needs.ties, latest, usage.used + usage.reserved - usage.limit
