"""The times at which credentials were last seen to open a place or a file. The credentials are never written down."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Iterable, Mapping

from cached.store.index.index import Index
from cached.store.index.resolutions import OWN

NOBODY = "nobody"  # A caller without credentials that may not use the daemon's own.

HASH = 16  # Bytes of a file's hash; keyed, so that nobody can search for two files with the same hash.
MOST_FILES = 65_536  # Remembered of one place for one set of credentials.
MOST_PLACES = 1_024  # Remembered in all …
MOST_OF_ONE = 64  # … and for one set of credentials.

# The latest place of each before the second of any: a caller that proves many displaces its own.
_KEPT = (
    "SELECT who, place FROM "
    "(SELECT who, place, at, row_number() OVER (PARTITION BY who ORDER BY at DESC) AS nth FROM proven) "
    "WHERE nth <= ? ORDER BY nth, at DESC LIMIT ?"
)


class Proofs:
    def __init__(self, index: Index) -> None:
        self._index = index
        self._key = bytes(index.query("SELECT key FROM fingerprint")[0]["key"])

    def who(self, personal: Mapping[str, str], namespace: Mapping[str, str] | None = None, empty: str = OWN) -> str:
        """Return a name for a caller's credentials; `empty` where it has none. `namespace` are the variables that
        choose the meaning of a name.

        The name is a hash with the key of this index: it has no meaning elsewhere, and somebody that has the hash and
        the key can only test guesses at a token.
        """
        name = self._hash(sorted(personal.items())) if personal else empty
        return f"{name}@{self._hash(sorted(namespace.items()))}" if namespace else name

    def principal(self, name: str) -> str:
        """Return a name for the principal that a source reports as the owner of temporary keys."""
        return f"principal:{self._hash(name)}"

    def _hash(self, value: object) -> str:
        return hashlib.blake2b(json.dumps(value).encode(), key=self._key, digest_size=16).hexdigest()

    # Proofs of a place, or of a complete set of files.

    def at(self, probe: str, who: str) -> float | None:
        """Return when (seconds since the epoch) `who` last proved this; None when never, or forgotten. For hits."""
        rows = self._index.hits.query("SELECT proved_at FROM proof WHERE probe = ? AND who = ?", (probe, who))
        return float(rows[0]["proved_at"]) if rows else None

    def record(self, probe: str, who: str, place: str = "") -> None:
        """Record that `who` proved this just now."""
        with self._index.transaction() as db:
            db.execute("INSERT OR REPLACE INTO proof VALUES (?, ?, ?, ?)", (probe, who, place, time.time()))

    def forget(self, probe: str, who: str) -> None:
        with self._index.transaction() as db:
            db.execute("DELETE FROM proof WHERE probe = ? AND who = ?", (probe, who))

    # Proofs of single files, where each is proved by itself.

    def proven(self, who: str, place: str, identities: Iterable[str]) -> set[str]:
        """Return those of the files (by identity) that `who` was seen to read at `place`."""
        rows = self._index.query("SELECT files FROM proven WHERE who = ? AND place = ?", (who, place))
        known = set(_split(rows[0]["files"])) if rows else set()
        return {identity for identity in identities if self._file(identity) in known} if known else set()

    def add_proven(self, who: str, place: str, identities: Collection[str]) -> None:
        """Record that `who` read these files just now, beside those that are known; the newest are kept."""
        new = [*dict.fromkeys(self._file(identity) for identity in identities)]
        with self._index.transaction() as db:
            row = db.execute("SELECT files FROM proven WHERE who = ? AND place = ?", (who, place)).fetchone()
            again = set(new)
            old = [file for file in _split(row["files"]) if file not in again] if row else []
            kept = [*new, *old][:MOST_FILES]  # The newest come first.
            db.execute("INSERT OR REPLACE INTO proven VALUES (?, ?, ?, ?)", (who, place, b"".join(kept), time.time()))
            if row is None:
                db.execute(f"DELETE FROM proven WHERE (who, place) NOT IN ({_KEPT})", (MOST_OF_ONE, MOST_PLACES))

    def _file(self, identity: str) -> bytes:
        return hashlib.blake2b(identity.encode(), key=self._key, digest_size=HASH).digest()

    # Proofs of both kinds.

    def forget_place(self, who: str, place: str) -> None:
        """Delete everything that `who` proved at `place`, because the source has refused something there."""
        with self._index.transaction() as db:
            for table in ("proof", "proven"):
                db.execute(f"DELETE FROM {table} WHERE who = ? AND place = ?", (who, place))

    def forget_below(self, who: str, place: str) -> None:
        """Delete everything that `who` proved at places that end in `place`, whatever endpoint they are at. Nothing is
        written where nothing was proved, because callers can cause any number of refusals."""
        end = "who = ? AND substr(place, -length(?)) = ?"
        for table in ("proof", "proven"):
            if self._index.query(f"SELECT 1 FROM {table} WHERE {end} LIMIT 1", (who, place, place)):
                with self._index.transaction() as db:
                    db.execute(f"DELETE FROM {table} WHERE {end}", (who, place, place))

    def forget_older(self, than: float) -> None:
        """Delete proofs made before `than` (seconds since the epoch)."""
        for table, column in (("proof", "proved_at"), ("proven", "at")):
            if self._index.query(f"SELECT 1 FROM {table} WHERE {column} < ? LIMIT 1", (than,)):
                with self._index.transaction() as db:
                    db.execute(f"DELETE FROM {table} WHERE {column} < ?", (than,))


def _split(files: bytes) -> list[bytes]:
    return [bytes(files[start : start + HASH]) for start in range(0, len(files), HASH)]
