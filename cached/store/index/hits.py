"""The queries of the index: the meaning of a ref, the blobs that exist, the space that is reserved. Nothing here
writes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cached.access import Access
from cached.model import Digest, Entry
from cached.store.index.database import IndexFile


@dataclass(frozen=True, slots=True)
class Known:
    """A ref that the node can resolve itself: the snapshot it last meant, and when the source was last queried
    (`checked_at`, in seconds since the epoch)."""

    snapshot: Digest
    source: str
    revision: str
    size: int
    files: int
    checked_at: float
    access: Access


@dataclass(frozen=True, slots=True)
class BlobRow:
    """A blob as the index knows it: its `size` in bytes and, if known, in `pieces` the XXH3-128 of each piece, 16 bytes
    apiece."""

    size: int
    pieces: bytes | None


class Hits(IndexFile):
    def find(self, ref: str, whos: Sequence[str] | None = None) -> Known | None:
        """Return the READY snapshot that `ref` (ModelRef.key) last meant to one of `whos` (None: to anybody); None if
        there is none."""
        return next(iter(self.meanings(ref, whos)), None)

    def meanings(self, ref: str, whos: Sequence[str] | None = None) -> list[Known]:
        """Return all READY snapshots that `ref` meant to one of `whos` (None: to anybody), the latest answer first."""
        only = "" if whos is None else f"AND r.who IN ({', '.join('?' * len(whos))}) "
        rows = self.hits.query(
            "SELECT r.snapshot, r.source, r.revision, s.size, s.files, r.checked_at, r.access FROM resolution r "
            f"JOIN snapshot s ON s.digest = r.snapshot WHERE r.ref = ? {only}AND s.state = 'ready' "
            "ORDER BY r.checked_at DESC",
            (ref, *(whos or ())),
        )
        return [
            Known(
                Digest(row["snapshot"]),
                row["source"],
                row["revision"],
                row["size"],
                row["files"],
                row["checked_at"],
                Access.parse(row["access"]),
            )
            for row in rows
        ]

    def ready(self, snapshot: Digest) -> bool:
        """Return whether the snapshot may be served to callers that have access to it."""
        return bool(self.hits.query("SELECT 1 FROM snapshot WHERE digest = ? AND state = 'ready'", (snapshot.hex,)))

    def access(self, snapshot: Digest) -> Access:
        """Return the access to the snapshot; an unknown one when the snapshot is not cached."""
        rows = self.hits.query("SELECT access FROM snapshot WHERE digest = ?", (snapshot.hex,))
        return Access.parse(rows[0]["access"]) if rows else Access()

    def expected(self, files: Iterable[tuple[Entry, str]]) -> list[Digest | None]:
        """Return the digest of each remote file (an entry and its identity), from its source or as the node remembers
        it; None where it is not known."""
        asked = list(files)
        remembered = self._remembered([identity for entry, identity in asked if entry.digest is None])
        return [entry.digest or remembered.get(identity) for entry, identity in asked]

    def _remembered(self, identities: list[str]) -> dict[str, Digest]:
        if not identities:
            return {}
        rows = self.query(
            "SELECT identity, blob FROM identity WHERE identity IN (SELECT value FROM json_each(?))",
            (json.dumps(identities),),
        )
        return {row["identity"]: Digest(row["blob"]) for row in rows}

    def seen_at(self, place: str, blobs: Iterable[Digest]) -> set[Digest]:
        """Return those of the blobs that were read from `place`, under any path and version."""
        start = json.dumps([place], separators=(",", ":"))[:-1] + ","
        rows = self.query(
            "SELECT DISTINCT blob FROM identity WHERE blob IN (SELECT value FROM json_each(?)) "
            "AND substr(identity, 1, ?) = ?",
            (json.dumps(sorted(blob.hex for blob in blobs)), len(start), start),
        )
        return {Digest(row["blob"]) for row in rows}

    def blobs(self, digests: Iterable[str]) -> dict[str, bool]:
        """Map the hex of each of the blobs that has a row to whether it is damaged."""
        rows = self.query(
            "SELECT digest, damaged FROM blob WHERE digest IN (SELECT value FROM json_each(?))",
            (json.dumps(list(digests)),),
        )
        return {row["digest"]: bool(row["damaged"]) for row in rows}

    def reserved(self, keys: Iterable[str]) -> dict[str, int]:
        """Return those of the keys that are reserved, with the bytes for which a further fill need not find space: all
        of them where a fill waits for the file, those that have landed where it is parked."""
        rows = self.query(
            "SELECT key, CASE WHEN key IN (SELECT key FROM want) THEN size ELSE bytes END AS covered FROM reservation "
            "WHERE key IN (SELECT value FROM json_each(?))",
            (json.dumps(list(keys)),),
        )
        return {row["key"]: row["covered"] for row in rows}
