"""What a suite is: a row of FAULTS, a name, and something that counts points and violations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.faults.points import Tally
from tests.faults.sweep import Bench, Patch, unpatched

T = TypeVar("T")


@dataclass(frozen=True)
class Context:
    """Where a suite may work, with how many processes, and how much of it: every `every`-th point."""

    folder: Path
    workers: int = 2
    every: int = 1
    minutes: float = 1.0  # Of what goes on for a while.
    patch: Patch = unpatched  # What is wrong with the code while it is tried: see controls.

    @property
    def bench(self) -> Bench:
        return Bench(self.folder, self.patch)

    def some(self, points: list[T], kind: Callable[[T], object]) -> list[T]:
        """Every `every`-th, and the first of each kind."""
        seen: set[object] = set()
        chosen = []
        for index, point in enumerate(points):
            if index % self.every == self.every // 2 or kind(point) not in seen or self.every == 1:
                chosen.append(point)
            seen.add(kind(point))
        return chosen


@dataclass(frozen=True)
class Suite:
    row: str
    name: str
    run: Callable[[Context], Tally]
