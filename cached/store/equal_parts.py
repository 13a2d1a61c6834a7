"""Something divided in equal parts among those who want different amounts of it."""

from __future__ import annotations

from collections.abc import Collection


def level(wanted: Collection[int], whole: int) -> int:
    """The most that each may have, so that together they have no more than the whole: what one does not want of its
    equal part is for the others. The largest amount that is wanted, when there is enough for all."""
    left = max(0, whole)
    for number, amount in enumerate(sorted(wanted)):
        part = left // (len(wanted) - number)
        if amount > part:
            return part
        left -= amount
    return max(wanted, default=0)
