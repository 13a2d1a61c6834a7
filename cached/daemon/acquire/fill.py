"""Fills: turn a listing into a snapshot on one of the disks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping

from cached.access import Access
from cached.daemon.acquire.authorization import Gate
from cached.daemon.acquire.counters import Counters
from cached.daemon.acquire.fill_job import Fill
from cached.daemon.acquire.loadable import Loadable
from cached.daemon.acquire.placement import Place, Places
from cached.daemon.acquire.request import Ask, names_of, ready
from cached.daemon.acquire.rights import Copy, Rights
from cached.daemon.space.disk import Disk
from cached.daemon.space.needs import Needs
from cached.daemon.space.reservation import Reserved
from cached.daemon.transfer.bundles import SMALL
from cached.errors import CachedError
from cached.model import Digest, Entry, Manifest, ManifestFile
from cached.store.snapshots.snapshots import Origin
from cached.wire import Ready
from cached.worker.messages import Remote

log = logging.getLogger("cached.filler")

SORTED = 4096  # The most files that are sorted.


class Filler:
    def __init__(self, places: Places, gate: Gate, loadable: Loadable, counters: Counters) -> None:
        self._places, self._gate, self._loadable, self._counters = places, gate, loadable, counters
        self._background: set[asyncio.Task[None]] = set()

    async def fill(self, fill: Fill, ask: Ask, rights: Rights) -> Ready:
        """Reserve room, fetch the missing files, prove that the caller may have the files that it has not read itself,
        and commit. Return the snapshot. When it fails, the bytes that had landed are kept for the next fill."""
        listing = rights.listing
        self._counters.misses += not ask.mending
        fill.phase = "waiting"
        place, reserved = await self._places.reserve(listing, rights.caller)
        disk, needs = place.disk, reserved.needs
        try:  # From here on, the room is released however the fill ends.
            fill.total_files, fill.cached_files = len(listing.entries), len(needs.digests)
            fill.total_bytes, fill.cached_bytes = await disk.do(_sizes, needs)
            fill.phase = "fetching"
            found = await place.room.run(reserved, self._fetch(place, needs, rights, fill, ask))
            fill.phase = "publishing"
            await rights.cover(_unread(disk, needs, found, fill.batch.read, rights))
            manifest = await disk.do(manifest_of, needs, found)
            if ask.require == "llm":
                self._loadable.add(ask.ref, manifest.digest)
            return await self._commit(place, manifest, reserved, rights)
        except BaseException as error:
            disk.heard(error)
            await asyncio.shield(place.room.abandon(reserved))
            raise

    async def _fetch(self, place: Place, needs: Needs, rights: Rights, fill: Fill, ask: Ask) -> dict[str, Digest]:
        remote = Remote(rights.listing, rights.caller.credentials)
        found = await place.fetch_index(needs, remote, fill.batch) if ask.require == "llm" else {}
        rest = await place.disk.do(_rest, needs, found)
        if remote.listing.rights_per_file:  # Now, not after the fetch: a refusal would take as long.
            await rights.prove(place.fetcher.joined(remote, rest))
        return found | await place.fetcher.fetch(remote, rest, fill.batch)

    async def _commit(self, place: Place, manifest: Manifest, reserved: Reserved, rights: Rights) -> Ready:
        listing, caller, disk = rights.listing, rights.caller, place.disk
        ref = listing.ref
        access = Access.of(listing, caller.with_own(ref))
        origin = Origin(ref.key, str(ref), listing.revision, access, reserved.uid)
        who = self._gate.whose.row(disk.store.proofs, ref, caller, listing.open)
        # Before the commit: otherwise the caller might have to prove it again.
        await disk.do(rights.record, disk)
        await disk.do(disk.store.commit, manifest, origin, names_of(listing), reserved.fill, who)
        place.room.committed(reserved)
        self._keep_below_soon(place)
        return ready(disk, manifest.digest, listing.revision, ref, manifest.size, hit=False)

    def _keep_below_soon(self, place: Place) -> None:
        task = asyncio.create_task(_keep_below(place))
        self._background.add(task)  # The loop itself holds tasks weakly.
        task.add_done_callback(self._background.discard)


async def _keep_below(place: Place) -> None:
    try:
        await place.disk.do(place.disk.store.drop_surplus)
        await place.room.keep_below()
    except CachedError as error:
        log.warning("evict.failed", extra={"root": str(place.disk.root), "why": error.message})


def _unread(disk: Disk, needs: Needs, found: Mapping[str, Digest], read: Collection[str], rights: Rights) -> list[Copy]:
    """Record in `rights` the files that the caller's credentials have read, and return a copy for every file of the
    listing."""
    files = needs.listing.entries
    rights.read([needs.wants[key] for key in read if key in needs.wants])
    digests = _digests(needs, found)
    return [Copy(entry, digests[entry.path], disk) for entry in files]


def _digests(needs: Needs, found: Mapping[str, Digest]) -> dict[str, Digest]:
    """Return the digests by path; `found` is by key."""
    return {**needs.digests, **{path: found[key] for path, key in needs.keys.items() if key in found}}


def _sizes(needs: Needs) -> tuple[int, int]:
    """Return the bytes of the listing, and the bytes of those of its files that are cached."""
    entries = needs.listing.entries
    return needs.listing.size, sum(entry.size for entry in entries if entry.path in needs.digests)


def _rest(needs: Needs, found: Mapping[str, Digest]) -> dict[str, Entry]:
    """Return the files still to be fetched, by key, the biggest first, so that the last to end is a small one."""
    rest = [(key, entry) for key, entry in needs.wants.items() if key not in found]
    if len(rest) <= SORTED:
        return dict(sorted(rest, key=lambda item: -item[1].size))
    # Sorting blocks the interpreter. Of so many files, only those that take long matter.
    large = [item for item in rest if item[1].size > SMALL][:SORTED]
    first = dict(sorted(large, key=lambda item: -item[1].size))
    return first | dict(rest)


def manifest_of(needs: Needs, found: Mapping[str, Digest]) -> Manifest:
    """Return the manifest of the snapshot; `found` is by key."""
    digests = _digests(needs, found)
    return Manifest(tuple(ManifestFile(e.path, e.size, digests[e.path]) for e in needs.listing.entries))
