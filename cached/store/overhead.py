"""The space that snapshots take beside their blobs: a directory and a manifest each, and for every file an entry in
these and in the index.

A node can spare some space for it. The excess is taken off the limit, and so it is charged to the users that caused the
most of it: the spare space is divided among them in equal parts, and an unused rest is for the others. A first part is
free for each user, however little is left to spare: a user with few files does not pay for the files of others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from cached.store.equal_parts import level

SPARE = 64 << 20  # Bytes of the index, and of the space that snapshots take beside their blobs, that are not charged.
FREE = 16  # One part in so many of it is free for each user in any case.
IN_INDEX = 384  # Bytes that a file of a snapshot takes in the index.
A_SNAPSHOT, A_FILE = 8 << 10, 256 + IN_INDEX

T = TypeVar("T")


def of(files: int, snapshots: int = 1) -> int:
    """Return the bytes that so many snapshots, with so many files in all, take beside their blobs."""
    return snapshots * A_SNAPSHOT + files * A_FILE


@dataclass(frozen=True, slots=True)
class Overhead:
    """Count the bytes `taken` by snapshots, or set aside for those that fills will make; `spare` bytes of them are
    spared, and `free` bytes are free for each user in any case."""

    taken: int = 0
    spare: int = 0
    free: int = 0

    @property
    def excess(self) -> int:
        """Bytes that are taken off the limit."""
        return max(0, self.taken - self.spare)

    def more(self, coming: int) -> int:
        """Return by how many bytes the excess grows when `coming` more bytes are taken."""
        return max(0, self.taken + coming - self.spare) - self.excess

    def charges(self, taken: Mapping[T, int]) -> dict[T, int]:
        """Return the bytes of the excess charged to each user, given the bytes each has `taken`; users that are charged
        nothing are left out."""
        most = max(level(taken.values(), self.spare), self.free)
        return {each: bytes_ - most for each, bytes_ in taken.items() if bytes_ > most}


NONE = Overhead()
