"""The operator's verbs: pin, unpin, remove, gc."""

from __future__ import annotations

import time
from typing import Any

from cached.daemon.acquire.cache import Cache
from cached.daemon.acquire.placement import Place
from cached.daemon.http.inventory import Inventory
from cached.daemon.space.disk import Disk
from cached.daemon.space.eviction_policy import Freed, Victim, Wish
from cached.daemon.space.usage_log import named
from cached.errors import InUse
from cached.model import Digest
from cached.store.store import Store


class Admin:
    def __init__(self, cache: Cache, inventory: Inventory) -> None:
        self._cache = cache
        self._inventory = inventory

    async def pin(self, ref: str, keep: float | None, uid: int) -> dict[str, Any]:
        """Pin a snapshot for `keep` seconds, on every root that has it; None means until it is unpinned."""
        disks, digest = await self._inventory.find_all(ref)
        shown = [await self.pin_on(disk, digest, keep, uid) for disk in disks]
        return shown[0]

    async def pin_on(self, disk: Disk, digest: Digest, keep: float | None, uid: int) -> dict[str, Any]:
        disk.require_writable()
        await disk.do(disk.store.index.pin, digest, None if keep is None else time.time() + keep, uid)
        return await disk.do(self._inventory.snapshot, disk, digest)

    async def unpin(self, ref: str) -> dict[str, Any]:
        disks, digest = await self._inventory.find_all(ref)
        for disk in disks:
            disk.require_writable()
            await disk.do(disk.store.index.unpin, digest)
        return await disks[0].do(self._inventory.snapshot, disks[0], digest)

    async def remove(self, ref: str, dry_run: bool) -> dict[str, Any]:
        """Remove one snapshot from every root that has it. Raises InUse when it is leased (naming the holders) or
        pinned."""
        disks, digest = await self._inventory.find_all(ref)
        for disk in disks:
            disk.require_writable()
        done = [await disk.do(self._remove, disk, digest, dry_run) for disk in disks]
        return {"removed": [each for part in done for each in part["removed"]], "freed": sum(p["freed"] for p in done)}

    def _remove(self, disk: Disk, digest: Digest, dry_run: bool) -> dict[str, Any]:
        store = disk.store
        details = self._inventory.details(disk, digest)
        if dry_run:
            self._refuse_in_use(details)
        before = store.index.committed()
        if not dry_run and not store.evict(digest, "removed by an operator"):
            self._refuse_in_use(self._inventory.details(disk, digest))
            raise InUse(f"{details['source']} is being used or removed at this moment; try again.")
        freed = details["unique_bytes"] if dry_run else before - store.index.committed()
        return {"removed": [details], "freed": freed}

    def _refuse_in_use(self, details: dict[str, Any]) -> None:
        if details["leased"]:
            who = ", ".join(named(holder) for holder in details["holders"][:5])
            raise InUse(f"{details['source']} is leased by {who or 'a process'}; stop it first.")
        if details["pinned"]:
            raise InUse(
                f"{details['source']} is pinned; `cached unpin {Digest.parse(details['digest']).hex[:12]}` first."
            )

    async def gc(self, free: int | None, dry_run: bool) -> dict[str, Any]:
        """Free `free` bytes on each root; None frees what is above the low watermark, parked downloads and orphans."""
        found = [await self._gc(place, free, dry_run) for place in self._cache.places if place.disk.degraded is None]
        if not found:
            self._cache.disks.require_writable()
        return {
            "removed": [removed(victim) for freed in found for victim in freed.victims],
            "freed": sum(freed.freed for freed in found),
            "short": max(freed.short for freed in found),
        }

    async def _gc(self, place: Place, free: int | None, dry_run: bool) -> Freed:
        if free is not None:
            return await place.room.make(free, Wish("because an operator wanted room"), dry_run)
        if not dry_run:
            await place.disk.do(_drop_unused, place.disk.store)
        need = await place.disk.do(place.room.excess, self._cache.config.low_watermark)
        return await place.room.make(
            need, Wish("to get below the low watermark", spare_young=True, spare_within=True), dry_run
        )


def _drop_unused(store: Store) -> None:
    for key in store.parked():
        store.drop_parked(key)
    store.drop_orphans()
    for aside in store.quarantine.list():
        if store.wanted_back(aside.blob) is None:
            store.quarantine.drop(aside)


def unnamed(victim: Victim) -> dict[str, Any]:
    """Describe a victim that is not visible to the caller."""
    return {"digest": None, "source": "a model that is not yours", "size": victim.frees, "reason": victim.why}


def removed(victim: Victim) -> dict[str, Any]:
    return {"digest": str(victim.digest), "source": victim.source, "size": victim.frees, "reason": victim.why}
