"""Brings a model's files into the page cache while their loader is still being started, in the order it will read them.

A loader that maps its files reads them a little at a time, as far as the kernel reads ahead of it, and waits for each.
Here a few threads ask for 16 MiB at a time, which keeps a drive busy. What they read goes into one small buffer over
and over: it is never looked at. They hold the interpreter for microseconds between the reads.

Whether a page is there is asked with RWF_NOWAIT, by copying it: mincore says "yes" of every page to whoever does not
own a file and may not write to it, as it is with callers of the cache. (POSIX_FADV_WILLNEED would read no more of each
window than the device's read-ahead, and not say so.)
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
_BUFFER = 256 << 10  # Stays in a core's own cache.
_INDEXES = ("consolidated.safetensors.index.json", "model.safetensors.index.json")


@dataclass(frozen=True, slots=True)
class Figures:
    """In bytes. `resident` was there already, `skipped` was left out for want of memory, unseen."""

    total: int = 0
    resident: int = 0
    read: int = 0
    skipped: int = 0


class Prefetch:
    """One model's files on their way into memory. Errors end it early and are nobody's trouble: the loader reads on."""

    def __init__(
        self, folder: str, share: float = SHARE, threads: int = THREADS, memory: Callable[[], int] = available
    ) -> None:
        """Starts at once. Reads no more than `share` of the memory that is available while it does."""
        self._folder = folder
        self._share = share
        self._memory = memory
        self._ahead = threads * WINDOW  # What the threads read at once.
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
        """So far."""
        return self._figures

    @property
    def done(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def wait(self) -> Figures:
        """Until all is there, given up or cancelled."""
        for thread in self._threads:
            thread.join()
        return self._figures

    def cancel(self) -> None:
        """Read nothing more; what is being read is a matter of milliseconds."""
        self._cancelled = True

    def _started(self, count: int) -> Iterator[threading.Thread]:
        """Daemons: a process that ends does not wait for its disk."""
        for _ in range(count):
            thread = threading.Thread(target=self._work, name="cached-prefetch", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # The system gives no more of them.
                return
            yield thread

    def _plan(self) -> Generator[_Window, None, None]:
        """What nobody else is reading, in order; then the rest, from its end, to meet whoever is."""
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
        with contextlib.suppress(OSError):  # Evicted after its lease, or a disk that fails: the loader will say so.
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
        """For what was read, what the other threads may be reading, and this."""
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
    """The same buffer as often as makes this many bytes."""
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
    """Whether nobody else is reading this file ahead; nobody else begins to until the block is left."""
    with _opened(path) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def _from_memory(descriptor: int, buffers: list[memoryview], position: int) -> int:
    """How many bytes from `position` on the page cache has; 0 when the first is not there."""
    try:
        return os.preadv(descriptor, buffers, position, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
            return 0
        raise


def _sizes(folder: str) -> dict[str, int]:
    """Of all regular files, by their paths below the folder."""
    paths = (os.path.join(place, name) for place, _, names in os.walk(folder) for name in names)
    found = {os.path.relpath(path, folder): os.lstat(path) for path in paths}
    return {path: status.st_size for path, status in found.items() if stat.S_ISREG(status.st_mode)}


def _indexed(folder: str) -> set[str]:
    """What the safetensors indexes name; a file that is no index names nothing."""
    found: set[str] = set()
    for name in _INDEXES:
        try:
            found.update(json.loads(Path(folder, name).read_bytes())["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return found
