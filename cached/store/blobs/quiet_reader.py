"""Read a published file in order to check it, without evicting anything from the page cache or bringing anything into
it.

Resident pages are read from the page cache, since loaders get those; the rest is read from the disk past the cache
(O_DIRECT). Where a file system cannot do that, pages that the reading brought in are dropped again.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

BLOCK = 4 << 20  # Bytes read at a time: a drive's full speed, and little enough to be hashed while the next ones come.

_PAGE = mmap.PAGESIZE
_MAP_FAILED = ctypes.c_void_p(-1).value
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_longlong]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]


class QuietReader:
    """Read one file from front to back. With `direct`, read all of it from the disk, whatever the page cache has."""

    def __init__(self, path: str, direct: bool = False) -> None:
        """Open the file. Raise OSError when it cannot be opened; a symbolic link is not followed."""
        self._all_direct = direct
        self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._direct_fd: int | None = None
        with contextlib.suppress(OSError):  # Not every file system supports it.
            self._direct_fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_DIRECT)
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_RANDOM)  # No read-ahead beyond resident pages.

    def close(self) -> None:
        os.close(self._fd)
        if self._direct_fd is not None:
            os.close(self._direct_fd)

    @property
    def status(self) -> os.stat_result:
        return os.fstat(self._fd)

    def blocks(self, size: int) -> Iterator[memoryview]:
        """Yield the first `size` bytes, a block at a time, each valid until the next. End early at the end of the
        file."""
        if size <= BLOCK:
            buffer = mmap.mmap(-1, (size // _PAGE + 1) * _PAGE)  # Whole pages, as O_DIRECT requires.
            yield memoryview(buffer)[: min(size, self._read(buffer, 0))]
            return
        with ThreadPoolExecutor(1, "read-ahead") as ahead:
            yield from self._ahead(ahead, size)

    def _ahead(self, pool: ThreadPoolExecutor, size: int) -> Iterator[memoryview]:
        """Yield the blocks; read each from the disk while the previous one is being hashed."""
        buffers = [mmap.mmap(-1, BLOCK) for _ in range(2)]
        starts = iter(range(0, size, BLOCK))

        def begin(turn: int) -> Future[int] | None:
            start = next(starts, None)
            return None if start is None else pool.submit(self._read, buffers[turn % 2], start)

        turn, coming = 0, begin(0)
        while coming is not None:
            count = coming.result()
            following = begin(turn + 1)
            left = size - turn * BLOCK
            yield memoryview(buffers[turn % 2])[: min(count, left)]
            if count < min(BLOCK, left):
                break
            turn, coming = turn + 1, following

    def _read(self, buffer: mmap.mmap, start: int) -> int:
        resident = self._resident(start)
        if self._direct_fd is not None and (self._all_direct or not all(resident)):
            return _fill(self._direct_fd, buffer, start)
        count = _fill(self._fd, buffer, start)
        if not all(resident):
            self._drop(start, resident)
        return count

    def _resident(self, start: int) -> list[bool]:
        """Return for each page of a block whether the page cache has it. Pages past the end of the file are left
        out."""
        length = min(BLOCK, self.status.st_size - start)
        if length <= 0:
            return []
        address = _libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, self._fd, start)
        if address == _MAP_FAILED:
            return [False]
        pages = ctypes.create_string_buffer(-(-length // _PAGE))
        try:
            failed = _libc.mincore(address, length, pages)
        finally:
            _libc.munmap(address, length)
        return [False] if failed else [bool(page & 1) for page in pages.raw]

    def _drop(self, start: int, resident: list[bool]) -> None:
        """Drop the pages that were not resident before."""
        for number, was_there in enumerate(resident):
            if not was_there:
                os.posix_fadvise(self._fd, start + number * _PAGE, _PAGE, os.POSIX_FADV_DONTNEED)


def _fill(fd: int, buffer: mmap.mmap, start: int) -> int:
    """Read as many bytes as fit into the buffer and exist from `start` on; return their number."""
    view, count = memoryview(buffer), 0
    while count < len(view):
        got = os.preadv(fd, [view[count:]], start + count)
        count += got
        if not got or count % _PAGE:  # The end of the file: a further read would not be aligned.
            break
    return count
