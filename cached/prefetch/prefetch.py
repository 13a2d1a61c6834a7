"""Read a model's files into the page cache while their loader is still starting, in the order in which it will read
them.

A loader that maps its files reads them a little at a time, as far as the kernel reads ahead of it, and waits for each.
Here a few threads request 16 MiB at a time, which keeps a drive busy. Their reads go into one small buffer over and
over, and its content is never used. They hold the interpreter for microseconds between the reads.

The presence of a page is checked with RWF_NOWAIT, by copying it: mincore reports every page as present to a process
that does not own the file and may not write to it, as is the case for callers of the cache. (POSIX_FADV_WILLNEED would
read no more of each window than the device's read-ahead, and not say so.)
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import mmap
import os
import stat
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from cached.prefetch.loading_order import loading_order
from cached.prefetch.memory import available

WINDOW = 16 << 20
THREADS = 4
SHARE = 0.5
_BUFFER = 256 << 10  # Small enough to stay in a core's own cache.
_INDEXES = ("consolidated.safetensors.index.json", "model.safetensors.index.json")


@dataclass(frozen=True, slots=True)
class Figures:
    """The progress in bytes. `resident` was in memory already, `skipped` was left out for lack of memory, unchecked."""

    total: int = 0
    resident: int = 0
    read: int = 0
    skipped: int = 0


class Prefetch:
    """Read one model's files into memory. Errors end the reading early and are not raised: the loader reads on."""

    def __init__(
        self, folder: str, share: float = SHARE, threads: int = THREADS, memory: Callable[[], int] = available
    ) -> None:
        """Start at once. Read no more than `share` of the memory that is available during the reading."""
        self._folder = folder
        self._share = share
        self._memory = memory
        self._ahead = threads * WINDOW  # Bytes that the threads read at once.
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._cancelled = False
        self._figures = Figures()
        self._windows = self._plan()
        self._threads = list(self._started(threads))

    def __repr__(self) -> str:
        return f"<Prefetch of {self._folder} {'done' if self.done else 'running'} {self._figures}>"

    @property
    def figures(self) -> Figures:
        """Return the figures so far."""
        return self._figures

    @property
    def done(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def wait(self) -> Figures:
        """Wait until all is read, given up or cancelled, and return the figures."""
        for thread in self._threads:
            thread.join()
        return self._figures

    def cancel(self) -> None:
        """Stop reading; reads that are under way end within milliseconds."""
        self._cancelled = True

    def _started(self, count: int) -> Iterator[threading.Thread]:
        """Start and yield daemon threads, so that a process that ends does not wait for its disk."""
        for _ in range(count):
            thread = threading.Thread(target=self._work, name="cached-prefetch", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # The system allows no more threads.
                return
            yield thread

    def _plan(self) -> Generator[_Window, None, None]:
        """Yield the windows of files that nothing else is reading, in order; then those of the others, each file from
        its end, to meet the other reader."""
        sizes = _sizes(self._folder)
        paths = loading_order(sizes, _indexed(self._folder))
        self._count(total=sum(sizes[path] for path in paths))
        taken: list[str] = []
        for path in paths:
            with _claim(os.path.join(self._folder, path)) as ours:
                if ours:
                    yield from self._windows_of(path, sizes[path])
                else:
                    taken.append(path)
        for path in taken:
            yield from reversed(list(self._windows_of(path, sizes[path])))

    def _windows_of(self, path: str, size: int) -> Iterator[_Window]:
        for start in range(0, size, WINDOW):
            yield _Window(os.path.join(self._folder, path), start, min(WINDOW, size - start))

    def _next(self) -> _Window | None:
        with self._turn:
            if self._cancelled:
                self._windows.close()
            return next(self._windows, None)

    def _work(self) -> None:
        buffer = memoryview(mmap.mmap(-1, _BUFFER))
        with contextlib.suppress(OSError):  # Evicted after its lease, or a failing disk: the loader will report it.
            while (window := self._next()) is not None:
                if self._has_room(window.length):
                    self._bring(window, buffer)
                else:
                    self._count(skipped=window.length)

    def _bring(self, window: _Window, buffer: memoryview) -> None:
        position, end = window.start, window.start + window.length
        with _opened(window.path) as descriptor:
            while position < end and not self._cancelled:
                wanted = _times(buffer, end - position)
                there = _from_memory(descriptor, wanted, position)
                read = 0 if there else os.preadv(descriptor, wanted, position)
                if not there and not read:
                    break
                position += there + read
                self._count(resident=there, read=read)

    def _has_room(self, length: int) -> bool:
        """Return True if memory suffices for the bytes read, those being read by other threads, and these."""
        return self._figures.read + max(length, self._ahead) <= self._share * self._memory()

    def _count(self, total: int = 0, resident: int = 0, read: int = 0, skipped: int = 0) -> None:
        with self._lock:
            now = self._figures
            self._figures = Figures(now.total + total, now.resident + resident, now.read + read, now.skipped + skipped)


@dataclass(frozen=True, slots=True)
class _Window:
    path: str
    start: int
    length: int


def _times(buffer: memoryview, length: int) -> list[memoryview]:
    """Return the same buffer as often as is needed for `length` bytes."""
    whole, rest = divmod(length, len(buffer))
    return [buffer] * whole + [buffer[:rest]] * bool(rest)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _claim(path: str) -> Iterator[bool]:
    """Yield True if nothing else is reading this file ahead; nothing else begins to until the block is left."""
    with _opened(path) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def _from_memory(descriptor: int, buffers: list[memoryview], position: int) -> int:
    """Copy bytes from the page cache, from `position` on, and return their number; 0 if the first is not there."""
    try:
        return os.preadv(descriptor, buffers, position, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
            return 0
        raise


def _sizes(folder: str) -> dict[str, int]:
    """Return the sizes of all regular files, by their paths below the folder."""
    paths = (os.path.join(place, name) for place, _, names in os.walk(folder) for name in names)
    found = {os.path.relpath(path, folder): os.lstat(path) for path in paths}
    return {path: status.st_size for path, status in found.items() if stat.S_ISREG(status.st_mode)}


def _indexed(folder: str) -> set[str]:
    """Return the files that the safetensors indexes name; a file that is not an index names none."""
    found: set[str] = set()
    for name in _INDEXES:
        try:
            found.update(json.loads(Path(folder, name).read_bytes())["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return found
