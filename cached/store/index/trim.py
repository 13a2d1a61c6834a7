"""How many rows the index keeps of what callers and sources can name without end. What goes is asked again, or told no
more; no bytes go with it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from cached.model import Digest

NAMES = 256  # Of one snapshot.
IDENTITIES = 256  # Of one blob: remote files at a version that have its bytes.
LEASES = 10_000  # Descriptions; the kernel decides.
SHARERS = 100  # Of one snapshot.

_PLAIN = "(json_extract(ref, '$[2]') = '[]' AND json_extract(ref, '$[3]') = '[]')"


def names(db: sqlite3.Connection, snapshot: Digest) -> None:
    """Those that were asked for longest ago go, and such with patterns first: of these one caller can think of many."""
    db.execute(
        "DELETE FROM resolution WHERE snapshot = ?1 AND (ref, who) IN "
        "(SELECT ref, who FROM resolution WHERE snapshot = ?1 "
        f"ORDER BY {_PLAIN} DESC, checked_at DESC LIMIT -1 OFFSET ?2)",
        (snapshot.hex, NAMES),
    )


def identities(db: sqlite3.Connection, written: Iterable[tuple[str, str]]) -> None:
    """Any but those that have just been written (identity, blob)."""
    for identity, blob in written:
        db.execute(
            "DELETE FROM identity WHERE identity IN (SELECT identity FROM identity WHERE blob = ?1 AND identity <> ?2 "
            "ORDER BY identity LIMIT max(0, (SELECT count(*) FROM identity WHERE blob = ?1) - ?3))",
            (blob, identity, IDENTITIES),
        )


def sharers(db: sqlite3.Connection, snapshots: Iterable[str]) -> None:
    """Those who were given one of these longest ago go."""
    for snapshot in snapshots:
        db.execute(
            "DELETE FROM sharing WHERE snapshot = ?1 AND uid IN "
            "(SELECT uid FROM sharing WHERE snapshot = ?1 ORDER BY at DESC LIMIT -1 OFFSET ?2)",
            (snapshot, SHARERS),
        )


def leases(db: sqlite3.Connection) -> None:
    """The oldest go."""
    (count,) = db.execute("SELECT count(*) FROM lease").fetchone()
    if count > LEASES:
        db.execute(
            "DELETE FROM lease WHERE (snapshot, pid) IN (SELECT snapshot, pid FROM lease ORDER BY since LIMIT ?)",
            (count - LEASES,),
        )
