"""The holders of the lock files of a snapshot, and the users that may hold one, as the kernel reports them."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cached.store.private import open_safely

log = logging.getLogger("cached.store")

# One at a time in this process: a check for leases must not look like a lease to another check.
trying = threading.RLock()


class Held(NamedTuple):
    """A lock file that is locked. `uid` is its user; None when its name does not say. `file` is its device and inode,
    zeros when they could not be read, and `at` is when it was last handed out (seconds since the epoch)."""

    uid: int | None
    file: tuple[int, int]
    at: float = 0.0


UNTOLD = Held(None, (0, 0))  # It may be locked; this cannot be determined.


def held_files(folder: str) -> list[Held]:
    """Return the locked files in a folder of lock files. This uses plain calls, because a listing needs thousands."""
    names, found = names_in(folder), []
    if names is None:
        return [UNTOLD]
    for name in names:
        file = f"{folder}/{name}"
        if held := look(file, uid_of(file)):
            found.append(held)
    return found


def look(file: str, uid: int | None, is_kind: Callable[[int], bool] = stat.S_ISREG) -> Held | None:
    """Return the lock on the file; None when nobody holds one, or the file's mode is not of the right kind. Return
    UNTOLD when that cannot be determined."""
    fd, status = -1, None
    try:
        with trying:
            try:
                fd = open_safely(file, os.O_RDONLY)
                status = os.fstat(fd)
                if is_kind(status.st_mode):
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            finally:
                if fd >= 0:
                    os.close(fd)
    except FileNotFoundError:
        return None
    except OSError as error:
        if status is None or not isinstance(error, BlockingIOError):
            log.warning("lease.unreadable", extra={"lock": file, "why": error.strerror})
            return UNTOLD
        return Held(uid, (status.st_dev, status.st_ino), status.st_mtime)
    return None


def names_in(folder: str) -> list[str] | None:
    """Return the names in the folder, none if it does not exist; None where it cannot be read."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        log.warning("lease.unreadable", extra={"lock": folder, "why": error.strerror})
        return None


def uid_of(file: str) -> int | None:
    name = file.rpartition("/")[2]
    return int(name) if name.isdecimal() else None


def user_of(pid: int) -> int | None:
    """Return the user of the process; None when it is not visible. After it has ended, a fork may still hold the
    lock."""
    try:
        return os.stat(f"/proc/{pid}").st_uid if pid > 0 else None
    except (FileNotFoundError, ProcessLookupError):
        return None


def booted() -> float:
    """Return when this node booted, in seconds since the epoch, a second early: the clock may have been adjusted
    since."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) - 1.0


def holders() -> dict[tuple[int, int], set[int]]:
    """Return the pids that hold an flock, by (device, inode). They are read from /proc/locks; none where it cannot be
    read.

    /proc/locks names the device of the superblock, which on btrfs and overlays differs from st_dev: so each inode is
    there under device 0 as well. A pid is that of the process that acquired the lock, as seen from this pid namespace;
    0 or -1 stands for one outside it.
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


def pids(held: Held, locks: dict[tuple[int, int], set[int]]) -> set[int]:
    """Return the pids that hold the lock, of `locks` (from `holders`); {0} when it is not among these."""
    return locks.get(held.file) or locks.get((0, held.file[1])) or {0}
