"""What fills wait for, and what room they take: rows of the index's tables `fill`, `want`, `hold` and `reservation`."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterable, Mapping

from cached.model import Digest


def begin(
    db: sqlite3.Connection, source: str, needs: Mapping[str, int], holds: Iterable[Digest], capacity: int
) -> int | None:
    """A new fill's id; None when short of space. See `Index.begin`."""
    known = {row["key"] for row in db.execute("SELECT key FROM reservation")}
    needed = sum(size for key, size in needs.items() if key not in known)
    if needed and committed(db) + needed > capacity:
        return None
    now = time.time()
    fill = db.execute("INSERT INTO fill (source, started_at) VALUES (?, ?)", (source, now)).lastrowid
    assert fill is not None  # sqlite3 types it as optional; an INSERT always has one.
    try:
        db.executemany("INSERT OR IGNORE INTO hold VALUES (?, ?)", [(fill, digest.hex) for digest in holds])
    except sqlite3.IntegrityError:
        raise LookupError("a held blob is gone") from None
    db.executemany("INSERT OR IGNORE INTO reservation VALUES (?, ?, ?)", [(k, s, now) for k, s in needs.items()])
    db.executemany("INSERT INTO want VALUES (?, ?)", [(fill, key) for key in needs])
    return fill


def committed(db: sqlite3.Connection) -> int:
    """Bytes used plus reserved."""
    row = db.execute(
        "SELECT (SELECT coalesce(sum(size), 0) FROM blob WHERE NOT damaged) "
        "+ (SELECT coalesce(sum(bytes), 0) FROM reservation)"
    ).fetchone()
    return int(row[0])


def fulfil(db: sqlite3.Connection, came: Collection[tuple[str, Digest]]) -> None:
    """Blobs have come by these keys: every fill that wanted one now holds it; what was reserved for it is in use."""
    db.executemany(
        "INSERT OR IGNORE INTO hold SELECT fill, ? FROM want WHERE key = ?", [(blob.hex, key) for key, blob in came]
    )
    db.executemany("DELETE FROM reservation WHERE key = ?", [(key,) for key, _ in came])


def free(db: sqlite3.Connection, parked: Iterable[str]) -> None:
    """Drop the reservations that no fill wants any more, but those of `parked` keys."""
    keep = set(parked)
    for row in db.execute("SELECT key FROM reservation WHERE key NOT IN (SELECT key FROM want)").fetchall():
        if row["key"] not in keep:
            db.execute("DELETE FROM reservation WHERE key = ?", (row["key"],))


def forget_parked(db: sqlite3.Connection, key: str) -> bool:
    """False when a fill has taken it up."""
    rows = db.execute(
        "DELETE FROM reservation WHERE key = ? AND key NOT IN (SELECT key FROM want) RETURNING key", (key,)
    ).fetchall()
    return bool(rows)
