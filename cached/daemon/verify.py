"""Re-reading what the store holds: XXH3 pieces at memory speed, the whole sha256 on request, and mending."""

from __future__ import annotations

import json
from typing import Any

from cached.daemon.cache import Ask, Cache
from cached.daemon.fill import Fill
from cached.daemon.threads import Threads
from cached.errors import CachedError
from cached.model import Credentials, Digest, ModelRef
from cached.wire import Ready


class Verifier:
    def __init__(self, cache: Cache, threads: Threads) -> None:
        self._cache = cache
        self._threads = threads

    async def verify(self, only: Digest | None, deep: bool, repair: bool) -> dict[str, Any]:
        """Check every blob (of one snapshot). What is damaged goes to quarantine, and is handed out no more.

        With `repair` the affected snapshots are fetched again from where they came, in place for their holders.
        """
        rows = await self._threads.disk(self._rows, only)
        checked = size = 0
        damaged: list[dict[str, Any]] = []
        affected: dict[Digest, list[dict[str, Any]]] = {}
        for row in rows:
            digest = Digest(row["digest"])
            problem = await self._threads.disk(self._cache.store.blobs.damage, digest, row["size"], row["pieces"], deep)
            checked, size = checked + 1, size + row["size"]
            if problem is None:
                continue
            snapshots = await self._threads.disk(self._cache.store.condemn, digest)
            if snapshots is None:  # Noticed by the watch, and found below; or evicted while we read it.
                continue
            finding = {
                "digest": str(digest),
                "path": str(self._cache.store.blobs.path(digest)),
                "problem": problem,
                "snapshots": [str(snapshot) for snapshot in snapshots],
                "repaired": False,
            }
            damaged.append(finding)
            for snapshot in snapshots:
                affected.setdefault(snapshot, []).append(finding)
        for snapshot, finding in await self._threads.disk(self._found_before, only, set(affected)):
            damaged.append(finding)
            affected.setdefault(snapshot, []).append(finding)
        if repair:
            await self._repair(affected)
        return {"checked": checked, "bytes": size, "damaged": damaged}

    def _rows(self, only: Digest | None) -> list[Any]:
        if only is None:
            return self._cache.store.index.query("SELECT digest, size, pieces FROM blob ORDER BY digest")
        return self._cache.store.index.query(
            "SELECT b.digest, b.size, b.pieces FROM blob b JOIN snapshot_blob s ON s.blob = b.digest "
            "WHERE s.snapshot = ? ORDER BY b.digest",
            (only.hex,),
        )

    def _found_before(self, only: Digest | None, now: set[Digest]) -> list[tuple[Digest, dict[str, Any]]]:
        """Snapshots that an earlier check took out of service, and that nobody has asked for since."""
        rows = self._cache.store.index.query("SELECT digest FROM snapshot WHERE state = 'damaged'")
        found = []
        for row in rows:
            snapshot = Digest(row["digest"])
            if snapshot in now or only not in (None, snapshot):
                continue
            finding = {
                "digest": str(snapshot),
                "path": str(self._cache.store.snapshots.path(snapshot)),
                "problem": "taken out of service by an earlier check",
                "snapshots": [str(snapshot)],
                "repaired": False,
            }
            found.append((snapshot, finding))
        return found

    async def _repair(self, affected: dict[Digest, list[dict[str, Any]]]) -> None:
        for snapshot, findings in affected.items():
            try:
                mended = await self._fetch_again(snapshot)
            except CachedError as error:
                for finding in findings:
                    finding["problem"] += f"; not repaired: {error.message}"
                continue
            for finding in findings:
                finding["repaired"] = mended
                if not mended:
                    finding["problem"] += "; not repaired: the source has another version now"

    async def _fetch_again(self, snapshot: Digest) -> bool:
        """Whether the same snapshot came back."""
        read = await self._threads.disk(self._cache.store.snapshots.read, snapshot)
        if read is None:
            return False
        uri, revision, include, exclude = json.loads(read[1].ref)
        ref = ModelRef(uri, revision, tuple(include), tuple(exclude))
        found = self._cache.acquire(
            Ask(ref.at(read[1].revision) if ref.scheme == "hf" else ref, max_age=0), Credentials()
        )
        if isinstance(found, Fill):
            async for step in found.watch(60.0, abandon=False):
                if isinstance(step, Ready):
                    found = step
        return isinstance(found, Ready) and found.digest == str(snapshot)
