"""Check one blob, by a worker, and act on the findings."""

from __future__ import annotations

from dataclasses import dataclass

from cached.daemon.space.disk import Disk
from cached.daemon.transfer.workers import Workers
from cached.errors import NoSpace, StoreDegraded
from cached.model import Digest
from cached.store.index.hits import BlobRow
from cached.worker.messages import Check


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a check: the problem in a few words, and the snapshots that are not served because of it."""

    size: int
    problem: str | None
    snapshots: tuple[Digest, ...] = ()


TRIES = 3  # Each time the file was replaced while it was read.

_HAVING = "SELECT snapshot FROM snapshot_blob WHERE blob = ?"


class Checker:
    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    async def check(self, disk: Disk, digest: Digest, deep: bool = False, rate: int = 0) -> Found | None:
        """Read the blob, at `rate` bytes per second if that is not 0. A damaged blob goes to quarantine.

        Return None when the blob does not exist, or no longer. Raises WorkerLost, and StoreDegraded, also when the blob
        changes all the time.
        """
        for _ in range(TRIES):
            row = await disk.do(disk.store.blob, digest)
            if row is None:
                return None
            found = await self._once(disk, digest, row, deep, rate)
            if found is not None:
                return found
        raise StoreDegraded(f"The blob {digest.hex[:12]} is being written to while it is checked; see who does that.")

    async def _once(self, disk: Disk, digest: Digest, row: BlobRow, deep: bool, rate: int) -> Found | None:
        """Check once. Return None when the file was meanwhile replaced or removed."""
        path = disk.store.blobs.path(digest)
        found = await self._workers.check(Check(path, digest, row.size, row.pieces, deep, rate))
        if found.problem is None:
            if disk.degraded is None:
                await disk.do(disk.store.index.checked, digest, found.pieces, found.mtime_ns, found.hashed)
            return Found(row.size, None)
        try:
            snapshots = await disk.do(disk.store.condemn, digest, found)
        except (StoreDegraded, NoSpace) as error:  # Not even the damage can be recorded.
            snapshots = [Digest(each["snapshot"]) for each in disk.query(_HAVING, digest.hex)]
            disk.unsound.update(snapshots)
            return Found(row.size, f"{found.problem}; that cannot be noted: {error.message}", tuple(snapshots))
        return None if snapshots is None else Found(row.size, found.problem, tuple(snapshots))
