"""Checksums of those rows that nothing on the disk could correct: which blob a remote file is, what a ref means, who
may read that.

SQLite would read a row whose bytes have changed on the disk as if it had been written so, and the node would answer
for another file, or another model.
"""

from __future__ import annotations

import sqlite3

import xxhash

# What each covers. Not when a ref was last asked: that changes, and is never later than now.
SEALED = {"identity": "identity, blob", "resolution": "ref, who, source, revision, snapshot, access"}


def seal(*texts: str) -> int:
    """64 bits over the texts, as SQLite's signed integer."""
    digest = xxhash.xxh3_64_digest("\0".join(texts).encode())
    return int.from_bytes(digest, "big", signed=True)


def teach(db: sqlite3.Connection) -> None:
    """Let SQL say `seal(…)`."""
    db.create_function("seal", -1, seal, deterministic=True)


def drop_broken(db: sqlite3.Connection) -> int:
    """Forget rows that are not what was written: the source is asked again. How many."""
    return sum(db.execute(f"DELETE FROM {t} WHERE seal <> seal({names})").rowcount for t, names in SEALED.items())
