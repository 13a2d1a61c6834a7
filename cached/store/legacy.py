"""What can still be believed of a damaged index: rows whose seal is right, and pins of what is on the disk."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cached.store.index import Index
from cached.store.queries import hide_in_key
from cached.store.seals import seal
from cached.uris import display_name

_IDENTITY = "INSERT OR IGNORE INTO identity SELECT ?, ?, ? WHERE EXISTS (SELECT 1 FROM blob WHERE digest = ?)"
# Known, but when it was asked last is not sealed: it is asked again before it is believed.
_RESOLUTION = (
    "INSERT OR REPLACE INTO resolution SELECT ?, ?, ?, ?, 0, ?, ? "
    "WHERE EXISTS (SELECT 1 FROM snapshot WHERE digest = ?)"
)
_PIN = "INSERT OR IGNORE INTO pin SELECT ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM snapshot WHERE digest = ?)"


def inherit(index: Index, damaged: Path) -> int:
    """Take over what the index that was put aside says truly of what is here; how many pins. It is only read."""
    try:
        old = sqlite3.connect(f"file:{quote(str(damaged))}?mode=ro", uri=True, isolation_level=None)
    except sqlite3.DatabaseError:
        return 0
    try:
        return _inherit(index, old)
    finally:
        old.close()
        damaged.with_name(f"{damaged.name}-shm").unlink(missing_ok=True)  # What reading its log has left.


def _inherit(index: Index, old: sqlite3.Connection) -> int:
    with index.transaction() as db:
        old.text_factory = lambda text: text.decode(errors="replace")  # Such a row is not what its seal says.
        for identity, blob, sealed in _rows(old, "SELECT identity, blob, seal FROM identity"):
            if _true(sealed, identity, blob):
                hidden = hide_in_key(identity)
                db.execute(_IDENTITY, (hidden, blob, seal(hidden, blob), blob))
        for *named, access, sealed in _rows(
            old, "SELECT ref, source, revision, snapshot, access, seal FROM resolution"
        ):
            if _true(sealed, *named, access):
                named = [hide_in_key(named[0]), display_name(named[1]), *named[2:]]
                db.execute(_RESOLUTION, (*named, seal(*named, access), access, named[-1]))
        return sum(_pin(db, *row) for row in _rows(old, "SELECT snapshot, until, uid FROM pin"))


def _true(sealed: object, *texts: object) -> bool:
    return sealed == seal(*(text if isinstance(text, str) else "" for text in texts))


def _pin(db: sqlite3.Connection, snapshot: object, until: object, uid: object) -> int:
    if not isinstance(until, float | None) or not isinstance(uid, int):
        return 0
    return db.execute(_PIN, (snapshot, until, uid, time.time(), snapshot)).rowcount


def _rows(old: sqlite3.Connection, query: str) -> Iterator[tuple[Any, ...]]:
    """Up to where it cannot be read any more."""
    try:
        yield from old.execute(query)
    except (sqlite3.DatabaseError, OverflowError):
        return
