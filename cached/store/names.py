"""What refs mean, and who may read that: rows of the index's table `resolution`, each under its seal."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping

from cached.access import UNKNOWN, Access
from cached.model import Digest
from cached.store import trim
from cached.store.seals import seal

_OPENNESS = {"": 0, "caller": 1, "own": 2, "open": 3}


def resolve(db: sqlite3.Connection, refs: Mapping[str, tuple[str, str]], snapshot: Digest, access: Access) -> None:
    """These refs (key → source, revision) were asked just now, and mean the snapshot."""
    now = time.time()
    for ref, (source, revision) in refs.items():
        row = db.execute("SELECT access FROM resolution WHERE ref = ? AND snapshot = ?", (ref, snapshot.hex))
        old = Access.parse((row.fetchone() or ("",))[0])
        # That a caller's credentials open it as well takes nothing from the daemon's own.
        chosen = old if (old.kind, access.kind) == ("own", "caller") and old.probe == access.probe else access
        named = ref, source, revision, snapshot.hex
        db.execute(
            "INSERT OR REPLACE INTO resolution SELECT ?, ?, ?, ?, ?, ?, ?",
            (*named, now, seal(*named, str(chosen)), str(chosen)),
        )
    trim.names(db, snapshot)
    _settle(db, snapshot)


def refuse(db: sqlite3.Connection, snapshot: Digest, access: Access) -> None:
    """The daemon's own credentials do not open any more what names of this access mean."""
    closed = str(Access("caller", access.probe))
    db.execute(
        "UPDATE resolution SET access = ?, seal = seal(ref, source, revision, snapshot, ?) "
        "WHERE snapshot = ? AND access = ?",
        (closed, closed, snapshot.hex, str(access)),
    )
    _settle(db, snapshot)


def _settle(db: sqlite3.Connection, snapshot: Digest) -> None:
    """Who may read the snapshot follows from all the names that mean it: it is as open as the most open of them."""
    rows = db.execute("SELECT access FROM resolution WHERE snapshot = ?", (snapshot.hex,)).fetchall()
    most = max((Access.parse(row["access"]) for row in rows), key=lambda each: _OPENNESS[each.kind], default=UNKNOWN)
    db.execute("UPDATE snapshot SET access = ? WHERE digest = ?", (str(most), snapshot.hex))
