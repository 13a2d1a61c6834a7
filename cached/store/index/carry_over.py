"""Recover what can be trusted of a damaged index: rows whose seal is right, and pins of snapshots that exist."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cached.access import Access
from cached.store.index.index import Index
from cached.store.index.query_strings import hide_in_key
from cached.store.index.resolutions import ALL, LEGACY, OWN, whose
from cached.store.index.row_seals import seal
from cached.uris import display_name

_IDENTITY = "INSERT OR IGNORE INTO identity SELECT ?, ?, ? WHERE EXISTS (SELECT 1 FROM blob WHERE digest = ?)"
# checked_at = 0, because it is not sealed: the source is queried again before the row is trusted.
_RESOLUTION = (
    "INSERT OR REPLACE INTO resolution (ref, who, source, revision, snapshot, access, checked_at, seal) "
    "SELECT ?, ?, ?, ?, ?, ?, 0, ? WHERE EXISTS (SELECT 1 FROM snapshot WHERE digest = ?)"
)
_PIN = "INSERT OR IGNORE INTO pin SELECT ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM snapshot WHERE digest = ?)"


def inherit(index: Index, damaged: Path) -> int:
    """Copy the trusted rows of the quarantined index, as far as their blobs and snapshots exist. Return the number of
    pins copied. The damaged file is only read."""
    try:
        old = sqlite3.connect(f"file:{quote(str(damaged))}?mode=ro", uri=True, isolation_level=None)
    except sqlite3.DatabaseError:
        return 0
    try:
        return _inherit(index, old)
    finally:
        old.close()
        damaged.with_name(f"{damaged.name}-shm").unlink(missing_ok=True)  # Left by reading its log.


def _inherit(index: Index, old: sqlite3.Connection) -> int:
    with index.transaction() as db:
        old.text_factory = lambda text: text.decode(errors="replace")  # Such a row does not match its seal.
        for identity, blob, sealed in _rows(old, "SELECT identity, blob, seal FROM identity"):
            if _true(sealed, identity, blob):
                hidden = hide_in_key(identity)
                db.execute(_IDENTITY, (hidden, blob, seal(hidden, blob), blob))
        for named in _resolutions(old):
            ref, who, source, *rest = named
            plain = hide_in_key(ref), who, display_name(source), *rest
            db.execute(_RESOLUTION, (*plain, seal(*plain), rest[1]))
            if who != LEGACY:
                db.execute("DELETE FROM resolution WHERE ref = ? AND who = ?", (plain[0], LEGACY))
        return sum(_pin(db, *row) for row in _rows(old, "SELECT snapshot, until, uid FROM pin"))


def _resolutions(old: sqlite3.Connection) -> Iterator[tuple[str, ...]]:
    """Yield the rows whose seal is right (ref, who, source, revision, snapshot, access). The key of the hashes that
    stand for credentials is lost with the index, so their rows become LEGACY; rows of a former release do not record a
    caller."""
    for *named, sealed in _rows(old, "SELECT ref, who, source, revision, snapshot, access, seal FROM resolution"):
        if _true(sealed, *named):
            ref, who, *rest = named
            yield ref, who if who in (ALL, OWN) else LEGACY, *rest
    if any(column[1] == "who" for column in _rows(old, "PRAGMA table_info(resolution)")):
        return
    for *named, text, sealed in _rows(old, "SELECT ref, source, revision, snapshot, access, seal FROM resolution"):
        if _true(sealed, *named, text):
            access = Access.parse(text)
            yield named[0], whose(access), *named[1:], str(access)


def _true(sealed: object, *texts: object) -> bool:
    return sealed == seal(*(text if isinstance(text, str) else "" for text in texts))


def _pin(db: sqlite3.Connection, snapshot: object, until: object, uid: object) -> int:
    if not isinstance(until, float | None) or not isinstance(uid, int):
        return 0
    return db.execute(_PIN, (snapshot, until, uid, time.time(), snapshot)).rowcount


def _rows(old: sqlite3.Connection, query: str) -> Iterator[tuple[Any, ...]]:
    """Yield rows up to the first that cannot be read."""
    try:
        yield from old.execute(query)
    except (sqlite3.DatabaseError, OverflowError):
        return
