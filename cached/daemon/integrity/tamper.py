"""Respond to a change that another process made: check the files it touched, and serve nothing that is damaged."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass

from cached.daemon.integrity.check import Checker
from cached.daemon.integrity.repair import Healer
from cached.daemon.integrity.watch import Watch
from cached.daemon.space.disk import Disk
from cached.errors import CachedError
from cached.model import Digest

log = logging.getLogger("cached.watch")


RETRY_SECONDS = 5.0  # Before a check that failed (no worker, a full disk) is tried again.


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A suspected change. `name` is the name of a file in the snapshot, without its folder; empty means the blob or
    snapshot itself."""

    digest: Digest
    name: str


class Tamper:
    """Respond to changes on one disk. Call `begin` before the daemon answers, then `run`, which ends only by being
    cancelled."""

    def __init__(self, disk: Disk, checker: Checker, healer: Healer | None) -> None:
        """Watch the disk. Without a `healer`, damage waits for the next acquire."""
        self._disk, self._checker, self._healer = disk, checker, healer
        self._loop = asyncio.get_running_loop()
        self._suspects: dict[Suspicion, str] = {}
        self._arrived = asyncio.Event()
        self._healing: set[asyncio.Task[None]] = set()
        self._watch = Watch(disk.store.layout, self._suspect)
        disk.suspect = self._suspect

    async def begin(self) -> None:
        await self._disk.do(self._watch.start)

    async def run(self) -> None:
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                suspects, self._suspects = self._suspects, {}
                left = [item for item in suspects.items() if not await self._checked(*item)]
                if left:
                    self._suspects.update(left)
                    self._loop.call_later(RETRY_SECONDS, self._arrived.set)
        finally:
            for task in self._healing:
                task.cancel()
            self._watch.close()

    def _suspect(self, digest: Digest, name: str, what: str) -> None:
        """Record a suspicion. May be called from any thread."""

        def note() -> None:
            self._suspects[Suspicion(digest, name)] = what
            self._arrived.set()

        with contextlib.suppress(RuntimeError):  # The loop has ended; so has the daemon.
            self._loop.call_soon_threadsafe(note)

    async def _checked(self, suspicion: Suspicion, what: str) -> bool:
        """Check a suspicion. Return False when it could not be checked and has to be tried again."""
        try:
            affected = await self._check(suspicion, what)
        except CachedError as error:
            log.warning("tamper.unchecked", extra={"digest": suspicion.digest.hex, "why": error.message})
            return False
        except Exception:
            log.exception("tamper.bug")
            return True
        if self._healer is not None and affected:
            healing = asyncio.create_task(_heal(self._healer, self._disk, affected))
            self._healing.add(healing)  # A task of its own: later changes must not wait for a download.
            healing.add_done_callback(self._healing.discard)
        return True

    async def _check(self, suspicion: Suspicion, what: str) -> set[Digest]:
        """Return the snapshots that are not served because of the change.

        Our own removals drop their rows before they touch a file, so the check finds nothing for them.
        """
        affected: set[Digest] = set()
        for blob in await self._disk.do(self._blobs, suspicion):
            found = await self._checker.check(self._disk, blob)
            if found is not None and found.problem is not None:
                log.error("tamper.blob", extra={"digest": blob.hex, "what": what, "problem": found.problem})
                affected.update(found.snapshots)
        if await self._disk.do(self._links_broken, suspicion.digest, what):
            affected.add(suspicion.digest)
        return affected

    def _blobs(self, suspicion: Suspicion) -> list[Digest]:
        """Return the blobs to check: the blob of that digest, or the snapshot's blobs that the named file may be, or
        all of the snapshot's."""
        digest, store = suspicion.digest, self._disk.store
        if store.blob(digest) is not None:
            return [digest]
        read = store.snapshots.read(digest)
        if read is None:
            return []
        files = read[0].files
        named = {file.digest for file in files if file.path.rpartition("/")[2] == suspicion.name}
        return sorted(named or {file.digest for file in files if not suspicion.name})

    def _links_broken(self, digest: Digest, what: str) -> bool:
        """Return True if the snapshot's directory differs from its manifest; it is then marked damaged and no longer
        served."""
        index = self._disk.store.index
        ready = index.query("SELECT 1 FROM snapshot WHERE digest = ? AND state = 'ready'", (digest.hex,))
        if not ready or self._disk.store.intact(digest):
            return False
        log.error("tamper.snapshot", extra={"digest": digest.hex, "what": what})
        try:
            index.mark_damaged(digest)
        except CachedError:  # Not even the damage can be recorded.
            self._disk.unsound.add(digest)
        return True


async def _heal(healer: Healer, disk: Disk, snapshots: set[Digest]) -> None:
    for snapshot in sorted(snapshots):
        try:
            await healer.heal(disk, snapshot)
        except CachedError as error:
            log.warning("heal.failed", extra={"snapshot": snapshot.hex, "why": error.message})
        except Exception:
            log.exception("heal.bug")
