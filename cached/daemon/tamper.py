"""What to do about a change that somebody else made: check what it touched, and hand out nothing that is damaged."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from cached.daemon.threads import Threads
from cached.daemon.watch import Watch
from cached.errors import CachedError
from cached.model import Digest
from cached.store.store import Store

log = logging.getLogger("cached.watch")


class Tamper:
    """Begin before the daemon answers, then `run`, which ends only by being cancelled."""

    def __init__(self, store: Store, threads: Threads) -> None:
        self._store = store
        self._threads = threads
        self._loop = asyncio.get_running_loop()
        self._suspects: dict[Digest, str] = {}
        self._arrived = asyncio.Event()
        self._watch = Watch(store.layout, self._suspect)

    async def begin(self) -> None:
        await self._threads.disk(self._watch.start)

    async def run(self) -> None:
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                suspects, self._suspects = self._suspects, {}
                for digest, what in suspects.items():
                    with contextlib.suppress(CachedError):
                        await self._threads.disk(self._check, digest, what)
        finally:
            self._watch.close()

    def _suspect(self, digest: Digest, what: str) -> None:
        """From the watching thread."""

        def note() -> None:
            self._suspects[digest] = what
            self._arrived.set()

        with contextlib.suppress(RuntimeError):  # The loop has ended; so has the daemon.
            self._loop.call_soon_threadsafe(note)

    def _check(self, digest: Digest, what: str) -> None:
        """Our own removals have dropped their rows before they touch a file, so they find nothing to check here."""
        index = self._store.index
        blobs = {
            row["digest"]: row
            for row in index.query(
                "SELECT digest, size, pieces FROM blob WHERE digest = ? UNION "
                "SELECT b.digest, b.size, b.pieces FROM snapshot_blob s JOIN blob b ON b.digest = s.blob "
                "WHERE s.snapshot = ?",
                (digest.hex, digest.hex),
            )
        }
        for row in blobs.values():
            blob = Digest(row["digest"])
            problem = self._store.blobs.damage(blob, row["size"], row["pieces"], deep=False)
            if problem and self._store.condemn(blob) is not None:
                log.error("tamper.blob", extra={"digest": blob.hex, "what": what, "problem": problem})
        self._check_links(digest, what)

    def _check_links(self, digest: Digest, what: str) -> None:
        read = self._store.snapshots.read(digest)
        ready = self._store.index.query("SELECT 1 FROM snapshot WHERE digest = ? AND state = 'ready'", (digest.hex,))
        if ready and (read is None or not self._store.snapshots.intact(read[0])):
            log.error("tamper.snapshot", extra={"digest": digest.hex, "what": what})
            self._store.index.mark_damaged(digest)
