"""One blob read again, by a worker, and what follows from what was found."""

from __future__ import annotations

from dataclasses import dataclass

from cached.daemon.disk import Disk
from cached.daemon.workers import Workers
from cached.errors import StoreDegraded
from cached.model import Digest
from cached.worker.messages import Check


@dataclass(frozen=True, slots=True)
class Found:
    """A check's result. `problem` in a few words, and the snapshots that are not handed out because of it."""

    size: int
    problem: str | None
    snapshots: tuple[Digest, ...] = ()


class Checker:
    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    async def check(self, disk: Disk, digest: Digest, deep: bool = False, rate: int = 0) -> Found | None:
        """Read it, at `rate` bytes per second if that is not 0. What is damaged goes to quarantine.

        None when there is no such blob, or no longer. WorkerLost, StoreDegraded.
        """
        row = await disk.do(disk.store.blob, digest)
        if row is None:
            return None
        path = disk.store.blobs.path(digest)
        found = await self._workers.check(Check(path, digest, row.size, row.pieces, deep, rate))
        if found.problem is None:
            if disk.degraded is None:
                await disk.do(disk.store.index.checked, digest, found.pieces, found.mtime_ns, found.hashed)
            return Found(row.size, None)
        try:
            snapshots = await disk.do(disk.store.condemn, digest, found)
        except StoreDegraded:
            disk.unsound.update(await disk.do(disk.store.index.having, digest))
            raise
        if snapshots is None:  # Removed meanwhile, or somebody else was first.
            return None
        return Found(row.size, found.problem, tuple(snapshots))
