"""Write bytes to a file, and read them back, slice by slice, in buffers that are reused."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import xxhash

from cached.errors import SizeMismatch
from cached.store.blobs.hashers import Checks
from cached.store.disk import disk_errors

SLICE = 512 * 1024  # Small enough to be hashed while it is still in the core's cache.

NOTED = 4 << 20  # Bytes after which progress is recorded: an interrupted piece keeps everything before.

_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h

_buffers = threading.local()
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Begun:
    """The progress of a piece: `done` bytes are written; `running` is their XXH3-128, to be copied before it is
    updated."""

    done: int
    running: xxhash.xxh3_128


class Landing:
    """Write the bytes of one piece, in order, from `done` on."""

    def __init__(
        self,
        fd: int,
        offset: int,
        length: int,
        name: str,
        begun: Begun,
        prepare: Callable[[], None],
        claim: Callable[[], Checks | None],
        note: Callable[[Begun], None],
    ) -> None:
        """Prepare to write. `prepare` is called before anything is written. `claim` returns the checks of the file once
        it is this piece's turn, else None. `note` is called after each NOTED bytes."""
        self._fd, self._offset, self._length, self._name = fd, offset, length, name
        self._claim, self._note = claim, note
        self._prepare: Callable[[], None] | None = prepare
        self.checks: Checks | None = None
        self.done = begun.done
        self._next_note = begun.done + NOTED
        self._xxh3 = begun.running.copy()

    def write(self, data: memoryview) -> None:
        """Write the next bytes of the piece. Raise SizeMismatch when there would be too many."""
        if self.done + len(data) > self._length:
            raise SizeMismatch(f"{self._name} sent more than the {self._length} bytes that were asked for.")
        if self._prepare is not None:
            self._prepare()
            self._prepare = None
        self._xxh3.update(data)
        if self.checks is None:
            self._take_over()
        if self.checks is not None:
            self.checks.update(data)
        with disk_errors(f"writing {self._name}"):
            write_all(self._fd, data, self._offset + self.done)
            self.done += len(data)
            if self._next_note <= self.done < self._length:
                self._note(Begun(self.done, self._xxh3.copy()))
                self._next_note = self.done + NOTED

    def _take_over(self) -> None:
        """Claim the file's checks if it is this piece's turn now, and run them over the bytes written before."""
        self.checks = self._claim()
        if self.checks is not None and self.done:
            with disk_errors(f"reading {self._name} back"):
                for data in slices(self._fd, self._offset, self.done):
                    self.checks.update(data)

    def finish(self) -> bytes:
        """Start the writeback of the piece and return its XXH3-128. Raise SizeMismatch when it is not complete."""
        if self.done != self._length:
            raise SizeMismatch(f"{self._name} sent {self.done} bytes where {self._length} were asked for.")
        if self._length > SLICE:  # Smaller pieces are synced before they can pile up.
            start_writeback(self._fd, self._offset, self._length)
        return self._xxh3.digest()


def slices(fd: int, offset: int, length: int) -> Iterator[memoryview]:
    """Yield this part of the file in slices, each valid until the next. End early at the end of the file."""
    view: memoryview | None = getattr(_buffers, "view", None)
    if view is None:
        view = _buffers.view = memoryview(bytearray(SLICE))
    end = offset + length
    while offset < end:
        count = os.preadv(fd, [view[: min(SLICE, end - offset)]], offset)
        if not count:
            return
        yield view[:count]
        offset += count


def start_writeback(fd: int, offset: int, length: int) -> None:
    """Start writing to the disk now, without waiting: a hundred gigabytes of dirty pages would stall the node.

    This is only a hint, so its failure is ignored: fsync reports errors of the disk.
    """
    _libc.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)


def make_durable(fd: int, name: str) -> None:
    """Make the file read-only, so that nothing writes to it any more, and fsync it. After a failure nothing is known
    about its bytes."""
    with disk_errors(f"making {name} durable"):
        os.fchmod(fd, 0o444)
        os.fsync(fd)


def write_all(fd: int, view: memoryview, offset: int) -> None:
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
