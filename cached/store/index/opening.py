"""Open the index at a start, or quarantine it and begin a new one, to be filled from the disk."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sqlite3
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from cached.errors import StoreDegraded
from cached.store import private
from cached.store.disk import disk_errors
from cached.store.index.index import Index
from cached.store.layout import Layout

log = logging.getLogger("cached.store")

# Errors that are not the file's fault: a new one would have them too. https://www.sqlite.org/rescode.html
_NOT_DAMAGE = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
)


@dataclass(frozen=True, slots=True)
class Opened:
    """An index and the `state` in which it was found: "new", "kept", "rebuilt: lost" or "rebuilt: damaged (why)"; after
    damage, `damaged` is the path of the old one."""

    index: Index
    state: str
    damaged: Path | None = None


def open_index(layout: Layout) -> Opened:
    """Open the index, or a new one where it is lost or damaged; a damaged one is kept in quarantine.

    Raise StoreDegraded when a newer cached wrote it, or the disk fails.
    """
    with disk_errors("closing the index to others"):
        private.close_index(layout)
    state = _state(layout)
    if state in ("new", "rebuilt: lost"):
        _put_aside(layout)  # A write-ahead log may remain without its file.
        if state != "new":
            log.warning("index.lost", extra={"path": str(layout.index)})
        return Opened(_open(layout), state)
    for tries_left in (1, 0) if state == "kept" else ():
        try:
            return Opened(Index(layout.index), "kept")
        except StoreDegraded:
            raise
        except sqlite3.DatabaseError as error:
            if _code(error) in _NOT_DAMAGE:
                raise _failed(layout, error) from error
            state = f"rebuilt: damaged ({error})"
        except (ValueError, LookupError, TypeError, AssertionError) as error:  # sqlite-utils, with damaged tables.
            state = f"rebuilt: damaged ({error or type(error).__name__})"
        if tries_left:  # SQLite reports some failures of the disk as damage.
            _read_through(layout)
    log.error("index.damaged", extra={"reason": state})
    aside = _put_aside(layout)
    return Opened(_open(layout), state, aside)


def _read_through(layout: Layout) -> None:
    """Raise StoreDegraded when the disk cannot return the index: its data may be undamaged."""
    with disk_errors("reading the index"):
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError), open(f"{layout.index}{suffix}", "rb", buffering=0) as file:
                while file.read(1 << 20):
                    pass


def _state(layout: Layout) -> str:
    """Return the state of the index, as far as names, types and sizes under the root show it."""
    with disk_errors("looking for the index"):
        lost = "rebuilt: lost" if any(layout.snapshots.iterdir()) else "new"
        try:
            status = layout.index.lstat()
        except FileNotFoundError:
            return lost
    if not stat.S_ISREG(status.st_mode):
        return "rebuilt: damaged (it is no regular file)"
    return "kept" if status.st_size else lost


def _put_aside(layout: Layout) -> Path:
    mark = f"{time.strftime('%Y%m%dT%H%M%S')}.{secrets.token_hex(4)}"
    with disk_errors("putting the damaged index aside"):
        for suffix in ("", "-wal", "-shm", "-journal"):
            path = f"{layout.index}{suffix}"
            if not os.path.lexists(path):
                continue
            told = not stat.S_ISREG(os.lstat(path).st_mode) or (suffix != "-shm" and os.path.getsize(path))
            if told:
                os.rename(path, f"{layout.quarantine}/index.db.{mark}{suffix}")
            else:
                os.unlink(path)
    return layout.quarantine / f"index.db.{mark}"


def _open(layout: Layout) -> Index:
    """Create a new index and open it. Raise StoreDegraded when that fails."""
    with disk_errors("making the index"):
        os.close(private.create(layout.index))
    try:
        return Index(layout.index)
    except sqlite3.DatabaseError as error:
        raise _failed(layout, error) from error


def _failed(layout: Layout, error: sqlite3.DatabaseError) -> StoreDegraded:
    failure = StoreDegraded(
        f"The index {layout.index} cannot be opened: {error}. Free some space or check the disk, then restart cached."
    )
    failure.lasting = True
    return failure


def _code(error: sqlite3.DatabaseError) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF  # The primary code.
