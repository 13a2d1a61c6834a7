"""Checksums of the rows that nothing on the disk could correct: the blob of a remote file, the meaning of a ref, and
the access to it.

SQLite would read a row whose bytes have changed on the disk as if it had been written so, and the node would serve
another file, or another model.
"""

from __future__ import annotations

import sqlite3

import xxhash

# The columns that each seal covers. Not `checked_at`: it changes, and is never later than now.
SEALED = {"identity": "identity, blob", "resolution": "ref, who, source, revision, snapshot, access"}


def seal(*texts: str) -> int:
    """Return a checksum of 64 bits over the texts, as SQLite's signed integer."""
    digest = xxhash.xxh3_64_digest("\0".join(texts).encode())
    return int.from_bytes(digest, "big", signed=True)


def teach(db: sqlite3.Connection) -> None:
    """Define `seal(…)` as a function of SQL."""
    db.create_function("seal", -1, seal, deterministic=True)


def drop_broken(db: sqlite3.Connection) -> int:
    """Delete the rows that do not match their seal, so that the source is queried again. Return their number."""
    return sum(db.execute(f"DELETE FROM {t} WHERE seal <> seal({names})").rowcount for t, names in SEALED.items())
