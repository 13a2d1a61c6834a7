"""Divide an amount in equal parts among users that want different amounts of it."""

from __future__ import annotations

from collections.abc import Collection


def level(wanted: Collection[int], whole: int) -> int:
    """Return the most that each may have so that together they have no more than `whole`; the unused rest of an equal
    part is divided among the others. Return the largest amount wanted when there is enough for all."""
    left = max(0, whole)
    for number, amount in enumerate(sorted(wanted)):
        part = left // (len(wanted) - number)
        if amount > part:
            return part
        left -= amount
    return max(wanted, default=0)
