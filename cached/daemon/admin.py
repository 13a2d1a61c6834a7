"""The operator's verbs: pin, unpin, remove, gc."""

from __future__ import annotations

import time
from typing import Any

from cached.daemon.cache import Cache
from cached.daemon.evict import Victim
from cached.daemon.inventory import Inventory
from cached.daemon.threads import Threads
from cached.errors import InUse
from cached.model import Digest


class Admin:
    def __init__(self, cache: Cache, inventory: Inventory, threads: Threads) -> None:
        self._cache = cache
        self._inventory = inventory
        self._threads = threads

    async def pin(self, ref: str, keep: float | None, uid: int) -> dict[str, Any]:
        """Hold a snapshot for `keep` seconds; None: until unpinned."""
        return await self._threads.disk(self._pin, ref, keep, uid)

    def _pin(self, ref: str, keep: float | None, uid: int) -> dict[str, Any]:
        digest = self._inventory.find(ref)
        self._cache.store.index.pin(digest, None if keep is None else time.time() + keep, uid)
        return self._inventory.snapshot(digest)

    async def unpin(self, ref: str) -> dict[str, Any]:
        return await self._threads.disk(self._unpin, ref)

    def _unpin(self, ref: str) -> dict[str, Any]:
        digest = self._inventory.find(ref)
        self._cache.store.index.unpin(digest)
        return self._inventory.snapshot(digest)

    async def remove(self, ref: str, dry_run: bool) -> dict[str, Any]:
        """Remove one snapshot. InUse when it is leased (and by whom) or pinned."""
        return await self._threads.disk(self._remove, ref, dry_run)

    def _remove(self, ref: str, dry_run: bool) -> dict[str, Any]:
        digest = self._inventory.find(ref)
        details = self._inventory.details(digest)
        self._refuse_in_use(details)
        before = self._cache.store.index.committed()
        if not dry_run and not self._cache.store.evict(digest, "removed by an operator"):
            self._refuse_in_use(self._inventory.details(digest))
            raise InUse(f"{details['source']} is being used or removed at this moment; try again.")
        freed = details["unique_bytes"] if dry_run else before - self._cache.store.index.committed()
        return {"removed": [details], "freed": freed}

    def _refuse_in_use(self, details: dict[str, Any]) -> None:
        if details["leased"]:
            who = ", ".join(f"{h['command'] or 'a process'} (pid {h['pid']})" for h in details["holders"][:5])
            raise InUse(f"{details['source']} is leased by {who or 'a process'}; stop it first.")
        if details["pinned"]:
            raise InUse(
                f"{details['source']} is pinned; `cached unpin {Digest.parse(details['digest']).hex[:12]}` first."
            )

    async def gc(self, free: int | None, dry_run: bool) -> dict[str, Any]:
        """Free `free` bytes; None: what is above the low watermark, parked downloads and orphans."""
        need = free
        if need is None:
            need = await self._threads.disk(self._cache.excess, self._cache.config.low_watermark)
            if not dry_run:
                await self._threads.disk(self._drop_unused)
        freed = await self._cache.make_room(need, dry_run)
        return {"removed": [_removed(victim) for victim in freed.victims], "freed": freed.freed, "short": freed.short}

    def _drop_unused(self) -> None:
        for key in self._cache.store.parked():
            self._cache.store.drop_parked(key)
        self._cache.store.drop_orphans()


def _removed(victim: Victim) -> dict[str, Any]:
    return {"digest": str(victim.digest), "source": victim.source, "size": victim.frees, "reason": victim.why}
