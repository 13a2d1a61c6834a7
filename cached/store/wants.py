"""What fills wait for: rows of the index's tables `want`, `hold` and `reservation`."""

from __future__ import annotations

import sqlite3

from cached.model import Digest


def fulfil(db: sqlite3.Connection, key: str, blob: Digest) -> None:
    """The blob has come by that key: every fill that wanted it now holds it, and what was reserved for it is in use."""
    db.execute("INSERT OR IGNORE INTO hold SELECT fill, ? FROM want WHERE key = ?", (blob.hex, key))
    db.execute("DELETE FROM reservation WHERE key = ?", (key,))
