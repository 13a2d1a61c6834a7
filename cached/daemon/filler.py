"""A listing becomes a snapshot on one of the disks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from cached.access import Access
from cached.daemon.ask import Ask, names_of, ready
from cached.daemon.callers import Caller
from cached.daemon.counters import Counters
from cached.daemon.fill import Fill
from cached.daemon.gate import Claim, Gate
from cached.daemon.places import Place, Places
from cached.daemon.policy import Loadable
from cached.daemon.space.needs import Needs
from cached.daemon.space.room import Reserved
from cached.errors import CachedError
from cached.model import Digest, Listing, Manifest, ManifestFile
from cached.store.snapshots import Origin
from cached.wire import Ready
from cached.worker.messages import Remote

log = logging.getLogger("cached.filler")


class Filler:
    def __init__(self, places: Places, gate: Gate, loadable: Loadable, counters: Counters) -> None:
        self._places, self._gate, self._loadable, self._counters = places, gate, loadable, counters
        self._background: set[asyncio.Task[None]] = set()

    async def fill(self, fill: Fill, ask: Ask, remote: Remote, caller: Caller) -> Ready:
        """Reserve, fetch what is not here, and commit. What had landed when it fails is kept for the next."""
        self._counters.misses += not ask.mending
        fill.phase = "waiting"
        place, reserved = await self._places.reserve(remote.listing, caller)
        disk, needs = place.disk, reserved.needs
        present = [entry for entry in remote.listing.entries if entry.path in needs.digests]
        fill.total_files, fill.total_bytes = len(remote.listing.entries), remote.listing.size
        fill.cached_files, fill.cached_bytes = len(present), sum(entry.size for entry in present)
        fill.phase = "fetching"
        try:
            found = await place.room.run(reserved, self._fetch(place, needs, remote, fill, ask))
            fill.phase = "publishing"
            manifest = await disk.do(_manifest, needs, found)
            if ask.require == "llm":
                self._loadable.add(ask.ref, manifest.digest)
            return await self._commit(place, remote.listing, manifest, reserved, caller)
        except BaseException as error:
            disk.heard(error)
            await asyncio.shield(place.room.abandon(reserved))
            raise

    async def _fetch(self, place: Place, needs: Needs, remote: Remote, fill: Fill, ask: Ask) -> dict[str, Digest]:
        found = await place.fetch_index(needs, remote, fill.batch) if ask.require == "llm" else {}
        # Biggest first: the last to end is then a small one.
        rest = sorted((item for item in needs.wants.items() if item[0] not in found), key=lambda item: -item[1].size)
        return found | await place.fetcher.fetch(remote, rest, fill.batch)

    async def _commit(
        self, place: Place, listing: Listing, manifest: Manifest, reserved: Reserved, caller: Caller
    ) -> Ready:
        ref, disk = listing.ref, place.disk
        access = Access.of(listing, caller.with_own(ref.scheme))
        origin = Origin(ref.key, str(ref), listing.revision, access, reserved.uid)
        # Before the commit: else its caller might be asked to prove it again.
        await disk.do(self._gate.record, disk, Claim(ref, manifest.digest, access, caller))
        await disk.do(disk.store.commit, manifest, origin, names_of(listing), reserved.fill)
        place.room.committed(reserved)
        self._keep_below_soon(place)
        return ready(disk, manifest.digest, listing.revision, ref, manifest.size, hit=False)

    def _keep_below_soon(self, place: Place) -> None:
        task = asyncio.create_task(_keep_below(place))
        self._background.add(task)  # The loop itself holds tasks weakly.
        task.add_done_callback(self._background.discard)


async def _keep_below(place: Place) -> None:
    try:
        await place.room.keep_below()
    except CachedError as error:
        log.warning("evict.failed", extra={"root": str(place.disk.root), "why": error.message})


def _manifest(needs: Needs, found: Mapping[str, Digest]) -> Manifest:
    """`found` by key."""
    digests = {**needs.digests, **{path: found[key] for path, key in needs.keys.items() if key in found}}
    return Manifest(tuple(ManifestFile(e.path, e.size, digests[e.path]) for e in needs.listing.entries))
