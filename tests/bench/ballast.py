"""Memory that stays with this machine while it is measured.

A virtual machine gives blocks of memory that are free back to its host, and pays for each page when it takes one again:
more than receiving costs, for whoever was measured first or after a pause. The host takes whole blocks only, so one
page held in each of them is enough to keep the rest.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager

BLOCK = 2 << 20  # What the host takes back at least (order 9 on x86-64).


@contextmanager
def steady_memory(size: int) -> Iterator[None]:
    """Keep about `size` bytes of free memory in pieces that are too small to go back to the host."""
    whole = max(1, size // BLOCK) * BLOCK
    with mmap.mmap(-1, whole, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        ones = b"\1" * BLOCK
        for start in range(0, whole, BLOCK):
            memory[start : start + BLOCK] = ones
        for start in range(0, whole, BLOCK):
            memory.madvise(mmap.MADV_DONTNEED, start + mmap.PAGESIZE, BLOCK - mmap.PAGESIZE)
        yield
