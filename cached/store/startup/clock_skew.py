"""Times in the index that cannot be: after a clock that was ahead is set back, rows must not count as new for ever."""

from __future__ import annotations

import sqlite3

from cached.store.index.index import Index

_PAST = (
    ("snapshot", "created_at"),
    ("snapshot", "used_at"),
    ("reservation", "created_at"),
    ("blob", "created_at"),
    ("blob", "checked_at"),
    ("blob", "hashed_at"),
    ("pin", "created_at"),
    ("lease", "since"),
    ("event", "at"),
)
_YEAR_9999 = 253402300799.0  # Beyond it no calendar can show a time; a pin that ends then ends never.


def set_back(index: Index, now: float) -> int:
    """How many rows were dated after now, or before there were clocks. A ref is asked again rather than believed."""
    count = 0
    with index.transaction() as db:
        count += _set_back_together(db, now)
        for table, column in _PAST:
            count += db.execute(
                f"UPDATE {table} SET {column} = min(max({column}, 0), ?) WHERE {column} > ? OR {column} < 0", (now, now)
            ).rowcount
        count += db.execute(
            "UPDATE resolution SET checked_at = 0 WHERE checked_at > ? OR checked_at < 0", (now,)
        ).rowcount
        count += db.execute("UPDATE pin SET until = NULL WHERE until > ?", (_YEAR_9999,)).rowcount
        count += db.execute("UPDATE pin SET until = 0 WHERE until < 0").rowcount
    return count


def _set_back_together(db: sqlite3.Connection, now: float) -> int:
    """What only means something beside another time: the order of uses stays, and a pin lasts as long as was asked."""
    (latest,) = db.execute("SELECT max(used_at) FROM snapshot").fetchone()
    ahead = max(0.0, (latest or 0.0) - now)
    used = db.execute("UPDATE snapshot SET used_at = max(used_at - ?, 0) WHERE ? > 0", (ahead, ahead)).rowcount
    pins = db.execute(
        "UPDATE pin SET until = ? + (until - created_at) WHERE created_at > ? AND until < ?", (now, now, _YEAR_9999)
    ).rowcount
    return used + pins
