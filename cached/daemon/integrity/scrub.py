"""Check every blob again from time to time, in the background, so that rot on the disk is found before a replica loads
it.

The blob that has gone longest without a check comes first. The time of each check is in its row, so a restart continues
where the last run stopped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from cached.config import Config
from cached.daemon.integrity.check import Checker
from cached.daemon.integrity.repair import Healer
from cached.daemon.space.disk import Disk
from cached.errors import CachedError
from cached.model import Digest
from cached.store.index.index import Index

log = logging.getLogger("cached.scrub")

LOOK_SECONDS = 60.0  # Between two searches for due blobs: settings are in hours and days.
BREATH_SECONDS = 0.01
HEAL_SECONDS = 3600.0  # Between two tries of a repair that failed.


@dataclass(slots=True)
class Scrubbed:
    """Totals since the start."""

    blobs: int = 0
    bytes: int = 0
    damaged: int = 0


class Scrubber:
    """Check and repair the blobs of one disk; `run` ends only by being cancelled."""

    def __init__(self, config: Config, disk: Disk, checker: Checker, healer: Healer) -> None:
        self._config, self._disk, self._checker, self._healer = config, disk, checker, healer
        self._healed_at = float("-inf")
        self.done = Scrubbed()

    async def run(self) -> None:
        while True:
            try:
                await self._heal()
                worked = self._disk.degraded is None and await self._next()
            except CachedError as error:
                log.warning("scrub.failed", extra={"root": str(self._disk.root), "why": error.message})
                worked = False
            # Between small files too: a hundred thousand of them must not keep a core busy.
            await asyncio.sleep(BREATH_SECONDS if worked else LOOK_SECONDS)

    async def _next(self) -> bool:
        """Check the blob that is due. Return False when none is."""
        due = await self._disk.do(find_due, self._disk.store.index, self._config, time.time())
        if due is None:
            return False
        found = await self._checker.check(self._disk, due.digest, due.deep, int(self._config.scrub_rate))
        if found is None:
            return True
        self.done.blobs, self.done.bytes = self.done.blobs + 1, self.done.bytes + found.size
        if found.problem is not None:
            self.done.damaged += 1
            self._healed_at = float("-inf")
        return True

    async def _heal(self) -> None:
        if self._config.self_heal and self._disk.degraded is None:
            now = time.monotonic()
            if now - self._healed_at >= HEAL_SECONDS:
                self._healed_at = now
                await self._healer.heal_all(self._disk)


@dataclass(frozen=True, slots=True)
class Due:
    digest: Digest
    deep: bool


def find_due(index: Index, config: Config, now: float) -> Due | None:
    """Return the blob to check next, or None. A blob that was never hashed since the index was rebuilt comes before
    everything else.

    A check that was cut off is not recorded, so its blob is due again.
    """
    deep, shallow = config.scrub_deep_interval, config.scrub_interval
    if not shallow:
        return None
    looks = [("hashed_at", 0.0, True)]
    looks += [("hashed_at", now - deep, True)] if deep else []
    looks += [("checked_at", now - shallow, False)]
    for column, before, thorough in looks:
        rows = index.query(
            f"SELECT digest FROM blob WHERE NOT damaged AND {column} <= ? ORDER BY {column} LIMIT 1", (before,)
        )
        if rows:
            return Due(Digest(rows[0]["digest"]), thorough)
    return None
