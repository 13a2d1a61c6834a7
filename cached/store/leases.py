"""Leases are kernel locks. The daemon never takes a shared one; it only asks who does, and excludes them to remove."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

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


def held(lock: Path) -> bool:
    """Whether somebody does, or it cannot be told."""
    with _trying, exclusive(lock) as free:
        return not free


def holders() -> dict[tuple[int, int], set[int]]:
    """Pids that hold an flock, by (device, inode). From /proc/locks; empty where it cannot be read.

    A pid is the one that took the lock, as seen from this pid namespace; 0 or -1 stands for one outside it.
    """
    found: dict[tuple[int, int], set[int]] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.replace("->", "").split()
            if len(words) >= 6 and words[1] == "FLOCK":
                major, minor, inode = words[5].split(":")
                device = os.makedev(int(major, 16), int(minor, 16))
                found.setdefault((device, int(inode)), set()).add(int(words[4]))
    return found
