"""Clamp timestamps that lie in the future. After a fast clock is corrected, rows written under it would otherwise look
new for ever."""

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
_YEAR_9999 = 253402300799.0  # No calendar can show a later time; a pin that would end later never ends.


def set_back(index: Index, now: float) -> int:
    """Clamp times after `now` (seconds since the epoch), and times before the epoch. Return the number of rows
    corrected. A ref with such a time is resolved again at its source before it is trusted."""
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
    """Shift times that only have a meaning relative to another time: the order of uses is kept, and a pin lasts as long
    as was requested. Return the number of rows changed."""
    (latest,) = db.execute("SELECT max(used_at) FROM snapshot").fetchone()
    ahead = max(0.0, (latest or 0.0) - now)
    used = db.execute("UPDATE snapshot SET used_at = max(used_at - ?, 0) WHERE ? > 0", (ahead, ahead)).rowcount
    pins = db.execute(
        "UPDATE pin SET until = ? + (until - created_at) WHERE created_at > ? AND until < ?", (now, now, _YEAR_9999)
    ).rowcount
    return used + pins
