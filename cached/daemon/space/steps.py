"""Room for the next bytes of running fills: what is free, else what is promised, taken as they come."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cached.daemon.space.books import decide
from cached.daemon.space.disk import Disk
from cached.daemon.space.eviction_policy import Budget, Wish, budget_of
from cached.daemon.space.evictor import Evictor
from cached.store.index.promises import FillRow

TRIES = 3  # Choices of victims that may each be leased before they could go.


@dataclass(frozen=True, slots=True)
class Stuck:
    """A fill that finds no room, and the one that would have to give way to it, if one would."""

    fill: int
    source: str
    stop: int | None = None


class Steps:
    """Synchronous; one call of `take` at a time. Steps are bytes by key that there is to be room for."""

    def __init__(self, disk: Disk, evictor: Evictor, budgets: Mapping[str, int]) -> None:
        self._disk, self._store, self._evictor, self._budgets = disk, disk.store, evictor, budgets

    def done(self, steps: Mapping[str, int]) -> bool:
        """Whether there is room already. What nobody has reserved needs none."""
        return self._lacking(steps) == 0

    def take(self, steps: Mapping[str, int], stopped: Collection[int], stoppable: Collection[int]) -> Stuck | None:
        """Make room, for whichever of the fills that wait for these can have it; None when that is done.

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
            self._disk.uses.flush()  # So that what was used a moment ago is not what goes.
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
        """Set aside what is free, and for who is within its share all that the fill will need. What still lacks."""
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
