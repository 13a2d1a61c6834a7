"""Leases are kernel locks. The daemon never takes a shared one; it only asks who does, and excludes them to remove."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger("cached.store")

# One at a time in this process: a look whether a snapshot is leased must not look like a lease to another.
_trying = threading.RLock()


@contextlib.contextmanager
def exclusive(lock: Path) -> Iterator[bool]:
    """Yield True while nobody holds a lease and nobody can take one; False when somebody does, or it cannot be told.

    A lock file that is gone cannot be leased either: True.
    """
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True
        return
    except OSError as error:  # No descriptors, a disk that fails: nothing is removed that might be in use.
        log.warning("lease.unreadable", extra={"lock": str(lock), "why": error.strerror})
        yield False
        return
    try:
        with _trying:
            free = _locked(fd, lock)
        yield free
    finally:
        with contextlib.suppress(OSError):  # Nothing was written; the lock is gone all the same.
            os.close(fd)


def _locked(fd: int, lock: Path) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        log.warning("lease.unreadable", extra={"lock": str(lock), "why": error.strerror})
        return False
    return True


class Look(NamedTuple):
    """`held`: somebody does, or it cannot be told. `file` is the device and the inode of the lock; zeros if unknown."""

    held: bool
    file: tuple[int, int]


def look(lock: str | Path) -> Look:
    """Whether a snapshot is leased at this moment. Plain calls, because a listing asks of thousands."""
    fd = -1
    try:
        with _trying:
            try:
                fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
                status = os.fstat(fd)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            finally:
                if fd >= 0:
                    os.close(fd)
    except FileNotFoundError:
        return Look(False, (0, 0))
    except OSError as error:
        if fd < 0 or not isinstance(error, BlockingIOError):
            log.warning("lease.unreadable", extra={"lock": str(lock), "why": error.strerror})
            return Look(True, (0, 0))
        return Look(True, (status.st_dev, status.st_ino))
    return Look(False, (status.st_dev, status.st_ino))


def held(lock: str | Path) -> bool:
    """Whether somebody leases it, or it cannot be told."""
    return look(lock).held


def holders() -> dict[tuple[int, int], set[int]]:
    """Pids that hold an flock, by (device, inode). From /proc/locks; empty where it cannot be read.

    /proc/locks names the device of the superblock, which on btrfs and overlays differs from st_dev: so each inode is
    there under device 0 as well. A pid is the one that took the lock, as seen from this pid namespace; 0 or -1 stands
    for one outside it.
    """
    found: dict[tuple[int, int], set[int]] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.replace("->", "").split()
            if len(words) >= 6 and words[1] == "FLOCK":
                major, minor, inode = words[5].split(":")
                device = os.makedev(int(major, 16), int(minor, 16))
                for key in ((device, int(inode)), (0, int(inode))):
                    found.setdefault(key, set()).add(int(words[4]))
    return found
