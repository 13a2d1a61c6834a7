"""The kernel's inotify(7): directories that are watched, and what happened to the names in them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import struct
from collections.abc import Iterator
from typing import NamedTuple

# linux/inotify.h
MODIFY = 0x2
CLOSE_WRITE = 0x8
MOVED_FROM = 0x40
MOVED_TO = 0x80
CREATE = 0x100
DELETE = 0x200
OVERFLOW = 0x4000
IGNORED = 0x8000
ONLY_DIRECTORIES = 0x1000000
DONT_FOLLOW = 0x2000000
IS_DIRECTORY = 0x40000000

_HEAD = struct.Struct("iIII")
_READ = 1 << 16  # Bytes; hundreds of events at once.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]


class Event(NamedTuple):
    """`cookie` is the same for both ends of a rename; `name` is empty for what happened to the directory itself."""

    watch: int
    mask: int
    cookie: int
    name: str


class Inotify:
    """One thread reads; any may add, remove and close."""

    def __init__(self) -> None:
        """OSError when the user has no instances or descriptors left."""
        self._fd = _checked(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK), "inotify")
        self._closing = os.eventfd(0, os.EFD_CLOEXEC)

    def add(self, path: str, mask: int) -> int:
        """The number of its watch. OSError: ENOSPC when the user has no watches left."""
        flags = mask | ONLY_DIRECTORIES | DONT_FOLLOW
        return _checked(_libc.inotify_add_watch(self._fd, os.fsencode(path), flags), path)

    def remove(self, watch: int) -> None:
        """Once more, or when the kernel has removed it by itself, changes nothing."""
        _libc.inotify_rm_watch(self._fd, watch)

    def events(self) -> Iterator[list[Event]]:
        """What happened, as it comes; ends after `stop`."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(self._closing, select.POLLIN)
        while self._closing not in dict(poll.poll()):
            with contextlib.suppress(BlockingIOError):
                yield list(_parsed(os.read(self._fd, _READ)))

    def stop(self) -> None:
        os.eventfd_write(self._closing, 1)

    def close(self) -> None:
        """After the last event was read."""
        os.close(self._fd)
        os.close(self._closing)


def _parsed(data: bytes) -> Iterator[Event]:
    at = 0
    while at < len(data):
        watch, mask, cookie, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        yield Event(watch, mask, cookie, os.fsdecode(data[at : at + length].rstrip(b"\0")))
        at += length


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result
