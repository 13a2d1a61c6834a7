"""What fills wait for: rows of the index's tables `want`, `hold` and `reservation`."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from cached.model import Digest


def fulfil(db: sqlite3.Connection, came: Collection[tuple[str, Digest]]) -> None:
    """Blobs have come by these keys: every fill that wanted one now holds it; what was reserved for it is in use."""
    db.executemany(
        "INSERT OR IGNORE INTO hold SELECT fill, ? FROM want WHERE key = ?", [(blob.hex, key) for key, blob in came]
    )
    db.executemany("DELETE FROM reservation WHERE key = ?", [(key,) for key, _ in came])
