"""Room for the next bytes of running fills: free space, else the room of promised snapshots, acquired as the bytes are
received."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cached.daemon.space.books import decide
from cached.daemon.space.disk import Disk
from cached.daemon.space.eviction_policy import Budget, Wish, budget_of
from cached.daemon.space.evictor import Evictor
from cached.store.index.promises import FillRow

TRIES = 3  # Choices of victims, each of which may be leased before it is evicted.


@dataclass(frozen=True, slots=True)
class Stuck:
    """A fill that finds no room, and the fill that would have to give way to it (`stop`), if there is one."""

    fill: int
    source: str
    stop: int | None = None


class Steps:
    """Make room step by step. Synchronous; one call of `take` at a time. Steps are the bytes, by key, that need
    room."""

    def __init__(self, disk: Disk, evictor: Evictor, budgets: Mapping[str, int]) -> None:
        self._disk, self._store, self._evictor, self._budgets = disk, disk.store, evictor, budgets

    def done(self, steps: Mapping[str, int]) -> bool:
        """Return True if there is room already. Files that no fill has reserved need none."""
        return self._lacking(steps) == 0

    def take(self, steps: Mapping[str, int], stopped: Collection[int], stoppable: Collection[int]) -> Stuck | None:
        """Make room for any one of the fills that wait for these steps, the oldest first, and return None when that is
        done. Otherwise return a stuck fill, if possible one with a fill to stop.

        `stopped`: fills that give way already; `stoppable`: those that could.
        """
        waiting = set(self._store.promises.waiting(steps))
        stuck: Stuck | None = None
        for fill in self._store.promises.fills():
            if fill.id not in waiting:
                continue
            found = Stuck(fill.id, fill.source) if fill.id in stopped else self._take(fill, steps, stoppable)
            if found is None:
                return None
            stuck = found if stuck is None or stuck.stop is None else stuck
        return stuck

    def _take(self, fill: FillRow, steps: Mapping[str, int], stoppable: Collection[int]) -> Stuck | None:
        budget, wish = budget_of(fill.source, self._budgets), self._wish(fill)
        greedy, in_vain = self._evictor.greedy(wish), 0
        while self._grant(fill, steps, budget, greedy) > 0:
            self._disk.uses.flush()  # So that a snapshot used a moment ago is not evicted.
            under = frozenset[str]() if budget is None else self._evictor.under(budget)
            decision = decide(self._evictor.books(wish), wish, budget, under, stoppable)
            if not decision.possible:
                return Stuck(fill.id, fill.source)
            victims = decision.victims
            self._store.promises.promise(fill.id, [victim.digest for victim in victims])
            lacking = self._lacking(steps)
            freed = self._evictor.clear(lacking - self._free(), victims, wish)
            if budget is not None and (left := self._evictor.spent(budget) + lacking - budget.limit) > 0:
                inner = [each for each in victims if each.source in under and each not in freed.victims]
                freed = self._evictor.clear(left, inner, wish, loose=False) if inner else freed
            in_vain += freed.freed <= 0
            if in_vain and (in_vain == TRIES or not victims) and self._grant(fill, steps, budget, greedy) > 0:
                return Stuck(fill.id, fill.source, decision.later[0] if decision.later else None)
        return None

    def _grant(self, fill: FillRow, steps: Mapping[str, int], budget: Budget | None, greedy: bool) -> int:
        """Set free space aside for the fill: for these steps, and for a user within its share for all that the fill
        will need. Return the bytes that the steps still lack."""
        limit = self._store.usage().limit
        most = limit if budget is None else budget.limit - self._evictor.spent(budget)
        self._store.promises.grant(fill.id, steps, limit, max(0, most), rest=not greedy)
        return self._lacking(steps)

    def _lacking(self, steps: Mapping[str, int]) -> int:
        found = self._store.promises.reservations(steps)
        return sum(max(0, min(steps[key], each.size) - each.bytes) for key, each in found.items())

    def _free(self) -> int:
        usage = self._store.usage()
        return max(0, usage.limit - usage.used - usage.reserved)

    def _wish(self, fill: FillRow) -> Wish:
        sizes = {key: each.size for key, each in self._store.promises.reservations(fill.wants).items()}
        return Wish(f"to make room for {fill.source}", wants=sizes, blobs=fill.holds, uid=fill.uid, fill=fill.id)
