"""Files below the root that only the daemon may open, and that no other user still has open from a time when all could.

A lock is held on a file, not on a name. So a file that others could open is not only closed to them: a copy takes its
place, and other users' locks and open descriptors belong to another file.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import signal
import stat
from pathlib import Path

from cached.store.disk import fsync_directory
from cached.store.layout import Layout

log = logging.getLogger("cached.store")

OTHERS = 0o077
_SAFELY = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # Never follow a link, or wait for a pipe.


def exposed(status: os.stat_result) -> bool:
    """Return whether other users can open the file, or own it."""
    return bool(status.st_mode & OTHERS) or status.st_uid != os.geteuid()


def open_safely(path: Path | str, flags: int) -> int:
    """Open a file and return its descriptor. A link is refused, and opening a pipe does not wait."""
    return os.open(path, flags | _SAFELY)


def create(path: Path | str) -> int:
    """Create a file that only the daemon can open, whatever the umask, and return its descriptor. Raise FileExistsError
    if it exists."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFELY, 0o600)
    try:
        os.fchmod(fd, 0o600)
    except BaseException:
        os.close(fd)
        raise
    return fd


def close_index(layout: Layout) -> None:
    """Make the index readable by the daemon alone, before SQLite opens it: SQLite creates its other files with the mode
    of this one.

    Files that others could open are replaced by copies, one by one and with the same bytes, so that a crash in between
    harms nothing; SQLite creates its shared-memory file anew.
    """
    for suffix in ("", "-wal", "-journal"):
        path = f"{layout.index}{suffix}"
        if _is_exposed_file(path):
            _replace_by_a_copy(layout, path)
    shared = f"{layout.index}-shm"
    if _is_exposed_file(shared):
        os.unlink(shared)


def _is_exposed_file(path: str) -> bool:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and exposed(status)


def _replace_by_a_copy(layout: Layout, path: str) -> None:
    copy = f"{layout.trash}/{os.path.basename(path)}.{secrets.token_hex(4)}"  # A start empties the trash.
    try:
        with open(create(copy), "wb") as target, open(open_safely(path, os.O_RDONLY), "rb") as source:
            shutil.copyfileobj(source, target, 1 << 20)
            target.flush()
            os.fsync(target.fileno())
        os.rename(copy, path)
        fsync_directory(layout.root)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(copy)
        raise
    log.info("root.closed", extra={"file": os.path.basename(path)})


def is_open_for_writing(path: Path) -> bool:
    """Return whether a process has the file open for writing, or that cannot be determined: the kernel gives no read
    lease on such a file.

    A process that can only read the file cannot make this true, in whatever pid namespace it hides. See fcntl(2),
    F_SETLEASE.
    """
    fd = open_safely(path, os.O_RDONLY)
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)  # Ignored by default; SIGIO would end the process.
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
