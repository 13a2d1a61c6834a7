"""The meaning of each ref to each caller, and the access to it: rows of the index's table `resolution`, each under its
seal."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping

from cached.access import UNKNOWN, Access, same_for_all
from cached.model import Digest
from cached.store.index import trim
from cached.store.index.row_seals import seal

ALL = ""  # The `who` of an open place, which means the same to every caller.
OWN = "own"  # The `who` of the daemon's own credentials.
LEGACY = "?"  # The `who` of a name whose caller is not known.
MOST = 32  # Rows of one ref: session keys change at every start, and each would leave one.

_OPENNESS = {"": 0, "caller": 1, "own": 2, "open": 3}


def resolve(
    db: sqlite3.Connection, refs: Mapping[str, tuple[str, str]], snapshot: Digest, access: Access, who: str
) -> None:
    """Record that these refs (key → source, revision) were resolved just now, and mean the snapshot to `who`."""
    now = time.time()
    for ref, (source, revision) in refs.items():
        named = ref, who, source, revision, snapshot.hex, str(access)
        db.execute(
            "INSERT OR REPLACE INTO resolution (ref, who, source, revision, snapshot, access, checked_at, seal) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*named, now, seal(*named)),
        )
        db.execute("DELETE FROM resolution WHERE ref = ? AND who = ?", (ref, LEGACY))
        if not access.open and same_for_all(source.partition("://")[0]):
            _forget_open(db, ref)
        db.execute(
            "DELETE FROM resolution WHERE ref = ?1 AND who NOT IN "
            "(SELECT who FROM resolution WHERE ref = ?1 ORDER BY checked_at DESC LIMIT ?2)",
            (ref, MOST),
        )
    trim.names(db, snapshot)
    _settle(db, snapshot)


def _forget_open(db: sqlite3.Connection, ref: str) -> None:
    """Delete the open meaning of a ref that is no longer open, whichever caller noticed it."""
    gone = db.execute("DELETE FROM resolution WHERE ref = ? AND who = ? RETURNING snapshot", (ref, ALL)).fetchall()
    for row in gone:
        _settle(db, Digest(row["snapshot"]))


def refuse(db: sqlite3.Connection, snapshot: Digest, access: Access) -> None:
    """Record that the daemon's own credentials no longer open the snapshot under names with this access."""
    closed = str(Access("caller", access.probe))
    db.execute(
        "UPDATE resolution SET access = ?, seal = seal(ref, who, source, revision, snapshot, ?) "
        "WHERE snapshot = ? AND access = ?",
        (closed, closed, snapshot.hex, str(access)),
    )
    _settle(db, snapshot)


def close(db: sqlite3.Connection, ref: str, who: str, snapshot: Digest) -> None:
    """Delete the meaning of the ref to `who`."""
    db.execute("DELETE FROM resolution WHERE ref = ? AND who = ? AND snapshot = ?", (ref, who, snapshot.hex))
    _settle(db, snapshot)


def _settle(db: sqlite3.Connection, snapshot: Digest) -> None:
    """Make the snapshot as open as the most open of all the names that mean it."""
    rows = db.execute("SELECT access FROM resolution WHERE snapshot = ?", (snapshot.hex,)).fetchall()
    most = max((Access.parse(row["access"]) for row in rows), key=lambda each: _OPENNESS[each.kind], default=UNKNOWN)
    db.execute("UPDATE snapshot SET access = ? WHERE digest = ?", (str(most), snapshot.hex))


def whose(access: Access) -> str:
    """Return the `who` of a name that is read from a manifest."""
    return ALL if access.open else LEGACY
