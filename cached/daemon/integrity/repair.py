"""Repair damaged snapshots by fetching them again from their source, and log the processes that hold them."""

from __future__ import annotations

import logging

from cached.daemon.access.callers import DAEMON
from cached.daemon.acquire.cache import Cache
from cached.daemon.acquire.fill_job import Fill
from cached.daemon.acquire.request import Ask
from cached.daemon.space.disk import Disk
from cached.daemon.space.usage_log import named
from cached.errors import CachedError
from cached.model import Digest
from cached.model_ref import ModelRef
from cached.wire import Ready

log = logging.getLogger("cached.heal")


class Healer:
    """Repair snapshots with the daemon's own credentials. A snapshot that only a caller's credentials opened stays
    damaged until that caller requests it again."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    async def heal(self, disk: Disk, snapshot: Digest) -> str | None:
        """Repair the snapshot in place, for its holders too. Return None on success; otherwise the reason, as a
        sentence."""
        try:
            if await disk.do(disk.store.relink, snapshot):  # Repaired without a request to its source.
                log.warning("snapshot.mended", extra={"snapshot": snapshot.hex, "how": "linked again"})
                return None
            again = await self._fetch_again(disk, snapshot)
            why = None if again else "the source has another version now, or its disk has no room for it"
        except CachedError as error:
            why = error.message
        holders = await disk.do(disk.uses.leases, snapshot)
        who = [named(each) for each in holders]
        extra = {"snapshot": snapshot.hex, "holders": who}
        if why is not None:
            log.error("snapshot.unmended", extra={**extra, "why": why})
            return why
        held = f"; held meanwhile by {', '.join(who[:5])}, who must open its files again" if who else ""
        await disk.do(disk.store.index.note, snapshot, "mended", f"what was damaged was fetched again{held}")
        log.warning("snapshot.mended", extra={**extra, "how": "fetched again"})
        return None

    async def heal_all(self, disk: Disk) -> None:
        """Repair every snapshot that an earlier check marked damaged and that no caller has requested since."""
        for row in await disk.do(disk.store.index.query, "SELECT digest FROM snapshot WHERE state = 'damaged'"):
            await self.heal(disk, Digest(row["digest"]))

    async def _fetch_again(self, disk: Disk, snapshot: Digest) -> bool:
        """Fetch the snapshot again. Return True if the source still has the same snapshot and it is complete on this
        disk."""
        read = await disk.do(disk.store.snapshots.read, snapshot)
        if read is None:
            return False
        ref = ModelRef.from_key(read[1].ref, (file.path for file in read[0].files))
        asked = Ask(ref.at(read[1].revision) if ref.scheme == "hf" else ref, max_age=0, mending=True)
        timeout = float(self._cache.config.resolve_timeout)
        listing = await self._cache.workers.resolve(asked.ref, DAEMON, timeout)
        if listing.revision != read[1].revision:  # No caller requested the version that is there now.
            return False
        found = await self._cache.acquire(asked, DAEMON)
        if isinstance(found, Fill):
            with found.waited_for(abandon=False):
                async for step in found.watch(60.0):
                    found = step if isinstance(step, Ready) else found
        rows = await disk.do(disk.store.index.query, "SELECT state FROM snapshot WHERE digest = ?", (snapshot.hex,))
        ready_here = [row["state"] for row in rows] == ["ready"]
        return isinstance(found, Ready) and found.digest == str(snapshot) and ready_here
