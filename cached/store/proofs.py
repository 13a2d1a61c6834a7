"""When whose credentials were last seen to open a remote file. The credentials themselves are never written down."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping

from cached.store.index import Index

OWN = "own"  # Who the daemon itself is.


class Proofs:
    def __init__(self, index: Index) -> None:
        self._index = index
        self._key = bytes(index.query("SELECT key FROM fingerprint")[0]["key"])

    def who(self, personal: Mapping[str, str]) -> str:
        """What stands for these credentials of a caller; OWN where it has none and the daemon's are used.

        A keyed hash, and the key is this index's: it says nothing elsewhere, and guesses at a token are all that
        somebody could check who has both.
        """
        if not personal:
            return OWN
        text = json.dumps(sorted(personal.items())).encode()
        return hashlib.blake2b(text, key=self._key, digest_size=16).hexdigest()

    def at(self, probe: str, who: str) -> float | None:
        """When (seconds since the epoch); None when never, or forgotten. For hits."""
        rows = self._index.hits.query("SELECT proved_at FROM proof WHERE probe = ? AND who = ?", (probe, who))
        return float(rows[0]["proved_at"]) if rows else None

    def record(self, probe: str, who: str) -> None:
        """Just now."""
        with self._index.transaction() as db:
            db.execute("INSERT OR REPLACE INTO proof VALUES (?, ?, ?)", (probe, who, time.time()))

    def forget(self, probe: str, who: str) -> None:
        with self._index.transaction() as db:
            db.execute("DELETE FROM proof WHERE probe = ? AND who = ?", (probe, who))

    def forget_older(self, than: float) -> None:
        """Than this time in seconds since the epoch."""
        if self._index.query("SELECT 1 FROM proof WHERE proved_at < ? LIMIT 1", (than,)):
            with self._index.transaction() as db:
                db.execute("DELETE FROM proof WHERE proved_at < ?", (than,))
