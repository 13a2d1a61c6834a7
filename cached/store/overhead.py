"""What snapshots take beside their blobs: a directory and a manifest each, and in these and in the index every file.

A node has some to spare for it. What goes beyond that is taken off the limit, and so it is charged to those who made
the most of it: what is spared is divided among them in equal parts, and what one leaves is for the others. The first of
it is nobody's, however little is left to spare: who has few files pays for nothing that others did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from cached.store.equal_parts import level

SPARE = 64 << 20  # Bytes of the index, and of what snapshots take beside their blobs, that are nobody's concern.
FREE = 16  # The part of it that each user has in any case.
IN_INDEX = 384  # Bytes that a file of a snapshot takes in the index.
A_SNAPSHOT, A_FILE = 8 << 10, 256 + IN_INDEX

T = TypeVar("T")


def of(files: int, snapshots: int = 1) -> int:
    """Bytes that snapshots of so many files in all take beside their blobs."""
    return snapshots * A_SNAPSHOT + files * A_FILE


@dataclass(frozen=True, slots=True)
class Overhead:
    """Bytes that are `taken` by snapshots, or set aside for those that fills will make; `spare` is what is spared, and
    `free` what each user has in any case."""

    taken: int = 0
    spare: int = 0
    free: int = 0

    @property
    def excess(self) -> int:
        """What is taken off the limit."""
        return max(0, self.taken - self.spare)

    def more(self, coming: int) -> int:
        """By how much the excess grows when so many bytes are taken besides."""
        return max(0, self.taken + coming - self.spare) - self.excess

    def charges(self, taken: Mapping[T, int]) -> dict[T, int]:
        """What each of those who have `taken` it has of the excess; those who have none of that are left out."""
        most = max(level(taken.values(), self.spare), self.free)
        return {each: bytes_ - most for each, bytes_ in taken.items() if bytes_ > most}


NONE = Overhead()
