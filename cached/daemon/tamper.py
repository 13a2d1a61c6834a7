"""What to do about a change that somebody else made: check what it touched, and hand out nothing that is damaged."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from cached.daemon.checks import Checker
from cached.daemon.disk import Disk
from cached.daemon.heal import Healer
from cached.daemon.watch import Watch
from cached.errors import CachedError
from cached.model import Digest

log = logging.getLogger("cached.watch")


class Tamper:
    """Of one disk. Begin before the daemon answers, then `run`, which ends only by being cancelled."""

    def __init__(self, disk: Disk, checker: Checker, healer: Healer | None) -> None:
        """Without a `healer`, what is damaged waits for the next acquire."""
        self._disk, self._checker, self._healer = disk, checker, healer
        self._loop = asyncio.get_running_loop()
        self._suspects: dict[Digest, str] = {}
        self._arrived = asyncio.Event()
        self._healing: set[asyncio.Task[None]] = set()
        self._watch = Watch(disk.store.layout, self._suspect)

    async def begin(self) -> None:
        await self._disk.do(self._watch.start)

    async def run(self) -> None:
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                suspects, self._suspects = self._suspects, {}
                for digest, what in suspects.items():
                    try:
                        await self._check(digest, what)
                    except CachedError as error:
                        log.warning("tamper.unchecked", extra={"digest": digest.hex, "why": error.message})
        finally:
            self._watch.close()

    def _suspect(self, digest: Digest, what: str) -> None:
        """From the watching thread."""

        def note() -> None:
            self._suspects[digest] = what
            self._arrived.set()

        with contextlib.suppress(RuntimeError):  # The loop has ended; so has the daemon.
            self._loop.call_soon_threadsafe(note)

    async def _check(self, digest: Digest, what: str) -> None:
        """Our own removals have dropped their rows before they touch a file, so they find nothing to check here."""
        affected: set[Digest] = set()
        for blob in await self._disk.do(self._blobs, digest):
            found = await self._checker.check(self._disk, blob)
            if found is not None and found.problem is not None:
                log.error("tamper.blob", extra={"digest": blob.hex, "what": what, "problem": found.problem})
                affected.update(found.snapshots)
        if await self._disk.do(self._links_broken, digest, what):
            affected.add(digest)
        if self._healer is not None and affected:
            healing = asyncio.create_task(_heal(self._healer, self._disk, affected))
            self._healing.add(healing)  # By itself: what is changed meanwhile must not wait for a download.
            healing.add_done_callback(self._healing.discard)

    def _blobs(self, digest: Digest) -> list[Digest]:
        """The blob of that name, or those of the snapshot of that name."""
        rows = self._disk.store.index.query(
            "SELECT digest FROM blob WHERE digest = ? AND NOT damaged UNION SELECT b.digest FROM snapshot_blob s "
            "JOIN blob b ON b.digest = s.blob WHERE s.snapshot = ? AND NOT b.damaged",
            (digest.hex, digest.hex),
        )
        return [Digest(row["digest"]) for row in rows]

    def _links_broken(self, digest: Digest, what: str) -> bool:
        index, snapshots = self._disk.store.index, self._disk.store.snapshots
        read = snapshots.read(digest)
        ready = index.query("SELECT 1 FROM snapshot WHERE digest = ? AND state = 'ready'", (digest.hex,))
        if not ready or (read is not None and snapshots.intact(read[0])):
            return False
        log.error("tamper.snapshot", extra={"digest": digest.hex, "what": what})
        index.mark_damaged(digest)
        return True


async def _heal(healer: Healer, disk: Disk, snapshots: set[Digest]) -> None:
    for snapshot in sorted(snapshots):
        try:
            await healer.heal(disk, snapshot)
        except CachedError as error:
            log.warning("heal.failed", extra={"snapshot": snapshot.hex, "why": error.message})
