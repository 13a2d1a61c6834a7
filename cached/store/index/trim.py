"""Bounds on the rows that the index keeps of names that callers and sources can invent without end. A deleted row is
queried again, or is no longer shown; no cached bytes are deleted with it."""

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
    """Delete the snapshot's names beyond NAMES: first those with patterns, of which one caller can invent many, then
    those that were requested longest ago."""
    db.execute(
        "DELETE FROM resolution WHERE snapshot = ?1 AND (ref, who) IN "
        "(SELECT ref, who FROM resolution WHERE snapshot = ?1 "
        f"ORDER BY {_PLAIN} DESC, checked_at DESC LIMIT -1 OFFSET ?2)",
        (snapshot.hex, NAMES),
    )


def identities(db: sqlite3.Connection, written: Iterable[tuple[str, str]]) -> None:
    """Delete the identities of these blobs beyond IDENTITIES, any but those that have just been written (identity,
    blob)."""
    for identity, blob in written:
        db.execute(
            "DELETE FROM identity WHERE identity IN (SELECT identity FROM identity WHERE blob = ?1 AND identity <> ?2 "
            "ORDER BY identity LIMIT max(0, (SELECT count(*) FROM identity WHERE blob = ?1) - ?3))",
            (blob, identity, IDENTITIES),
        )


def sharers(db: sqlite3.Connection, snapshots: Iterable[str]) -> None:
    """Delete the users of these snapshots beyond SHARERS: those that were given one longest ago."""
    for snapshot in snapshots:
        db.execute(
            "DELETE FROM sharing WHERE snapshot = ?1 AND uid IN "
            "(SELECT uid FROM sharing WHERE snapshot = ?1 ORDER BY at DESC LIMIT -1 OFFSET ?2)",
            (snapshot, SHARERS),
        )


def leases(db: sqlite3.Connection) -> None:
    """Delete the leases beyond LEASES, the oldest first."""
    (count,) = db.execute("SELECT count(*) FROM lease").fetchone()
    if count > LEASES:
        db.execute(
            "DELETE FROM lease WHERE (snapshot, pid) IN (SELECT snapshot, pid FROM lease ORDER BY since LIMIT ?)",
            (count - LEASES,),
        )
