"""The operator's `verify`: check every blob as fast as the disks allow, and repair on request."""

from __future__ import annotations

import asyncio
from typing import Any

from cached.daemon.integrity.check import Checker, Found
from cached.daemon.integrity.repair import Healer
from cached.daemon.space.disk import Disk
from cached.daemon.space.disks import Disks
from cached.model import Digest

AT_ONCE = 4  # Blobs of one disk that are read side by side.


class Verifier:
    def __init__(self, disks: Disks, checker: Checker, healer: Healer) -> None:
        self._disks, self._checker, self._healer = disks, checker, healer

    async def verify(self, only: Digest | None, deep: bool, repair: bool) -> dict[str, Any]:
        """Check every blob, or those of the snapshot `only`. Damaged blobs go to quarantine, and their snapshots are no
        longer served. Return the counts and the findings.

        With `repair` the affected snapshots are fetched again from their sources, in place for their holders.
        """
        reports = [await self._verify(disk, only, deep, repair) for disk in self._disks]
        return {
            "checked": sum(report["checked"] for report in reports),
            "bytes": sum(report["bytes"] for report in reports),
            "damaged": [finding for report in reports for finding in report["damaged"]],
        }

    async def _verify(self, disk: Disk, only: Digest | None, deep: bool, repair: bool) -> dict[str, Any]:
        results = await self._check_all(disk, await disk.do(_blobs, disk, only), deep)
        damaged: list[dict[str, Any]] = []
        affected: dict[Digest, list[dict[str, Any]]] = {}
        for digest, found in results:
            if found.problem is not None:
                damaged.append(_finding(digest, str(disk.store.blobs.path(digest)), found.problem, found.snapshots))
                for snapshot in found.snapshots:
                    affected.setdefault(snapshot, []).append(damaged[-1])
        for snapshot in await disk.do(_found_before, disk, only, set(affected)):
            path, problem = str(disk.store.snapshots.path(snapshot)), "taken out of service by an earlier check"
            damaged.append(_finding(snapshot, path, problem, (snapshot,)))
            affected.setdefault(snapshot, []).append(damaged[-1])
        if repair:
            await self._repair(disk, affected)
        return {"checked": len(results), "bytes": sum(found.size for _, found in results), "damaged": damaged}

    async def _check_all(self, disk: Disk, digests: list[Digest], deep: bool) -> list[tuple[Digest, Found]]:
        left, results = iter(digests), []

        async def take() -> None:
            for digest in left:
                found = await self._checker.check(disk, digest, deep)
                if found is not None:
                    results.append((digest, found))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(take())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return sorted(results, key=lambda result: result[0])

    async def _repair(self, disk: Disk, affected: dict[Digest, list[dict[str, Any]]]) -> None:
        for snapshot, findings in affected.items():
            why = await self._healer.heal(disk, snapshot)
            for finding in findings:
                finding["repaired"] = why is None
                finding["problem"] += f"; not repaired: {why}" if why is not None else ""


def _blobs(disk: Disk, only: Digest | None) -> list[Digest]:
    index = disk.store.index
    if only is None:
        rows = index.query("SELECT digest FROM blob WHERE NOT damaged ORDER BY digest")
    else:
        rows = index.query("SELECT blob AS digest FROM snapshot_blob WHERE snapshot = ? ORDER BY blob", (only.hex,))
    return [Digest(row["digest"]) for row in rows]


def _found_before(disk: Disk, only: Digest | None, now: set[Digest]) -> list[Digest]:
    """Return the snapshots that an earlier check marked damaged, and that no caller has requested since."""
    rows = disk.store.index.query("SELECT digest FROM snapshot WHERE state = 'damaged'")
    found = [Digest(row["digest"]) for row in rows]
    return [snapshot for snapshot in found if snapshot not in now and only in (None, snapshot)]


def _finding(digest: Digest, path: str, problem: str, snapshots: tuple[Digest, ...]) -> dict[str, Any]:
    names = [str(snapshot) for snapshot in snapshots]
    return {"digest": str(digest), "path": path, "problem": problem, "snapshots": names, "repaired": False}
