"""Check the blobs that were written to while no daemon watched, before any caller gets them."""

from __future__ import annotations

import logging

from cached.model import PIECE_BYTES, Digest
from cached.store.blobs.blobs import Blobs
from cached.store.blobs.verify import check
from cached.store.index.index import Index
from cached.store.startup.blob_scan import Census, Lying
from cached.store.startup.report import Recovered

log = logging.getLogger("cached.store")


class Recheck:
    def __init__(self, index: Index, blobs: Blobs, census: Census, done: Recovered) -> None:
        self._index, self._blobs, self._census, self._done = index, blobs, census, done

    def run(self) -> None:
        """Check the blobs that were written to or are marked damaged, and quarantine the damaged ones. Afterwards every
        row with a file has that file's `st_mtime_ns`, and no file is known to be damaged."""
        with self._index.transaction() as db:
            cursor = db.cursor()
            cursor.row_factory = None
            rows = cursor.execute("SELECT digest, size, mtime_ns, damaged FROM blob").fetchall()
        fresh: list[tuple[str, Lying]] = []
        for blob, size, mtime_ns, damaged in rows:
            lying = self._census.get(blob)
            if lying is None or (mtime_ns == lying.mtime_ns and not damaged):
                continue
            if mtime_ns is None and not damaged:
                fresh.append((blob, lying))
            else:
                self._check(Digest(blob), size, lying, bool(damaged))
        self._adopt(fresh)

    def _adopt(self, fresh: list[tuple[str, Lying]]) -> None:
        """Complete rows from a version of cached that did not record modification times: trust their files as they are
        now."""
        with self._index.transaction() as db:
            for blob, lying in fresh:
                pieces = self._pieces(Digest(blob), lying)
                db.execute(
                    "UPDATE blob SET mtime_ns = ?, pieces = coalesce(pieces, ?) WHERE digest = ?",
                    (lying.mtime_ns, pieces, blob),
                )

    def _pieces(self, blob: Digest, lying: Lying) -> bytes | None:
        """Return the piece checksums in the blob's sidecar, or None. Blobs of up to PIECE_BYTES have no sidecar."""
        return self._blobs.known_pieces(blob, lying.size, lying.mtime_ns) if lying.size > PIECE_BYTES else None

    def _check(self, blob: Digest, size: int, lying: Lying, condemned: bool) -> None:
        """Check one blob, and quarantine it if it is damaged. A blob that was marked damaged has to pass a check of its
        full sha256: a crash may have happened before it was quarantined, or after it was published again."""
        pieces = self._index.query("SELECT pieces FROM blob WHERE digest = ?", (blob.hex,))[0]["pieces"]
        found = check(str(self._blobs.path(blob)), blob, size, pieces, deep=condemned)
        self._done.blobs_checked += 1
        if found.problem is None:
            with self._index.transaction() as db:
                db.execute("UPDATE blob SET damaged = 0 WHERE digest = ?", (blob.hex,))
                self._index.checked(blob, found.pieces, found.mtime_ns, found.hashed)
            return
        log.error("blob.damaged", extra={"digest": blob.hex, "problem": found.problem, "when": "start-up"})
        self._index.condemn(blob, f"{found.problem}, found when the daemon started")
        self._blobs.quarantine(blob, size, pieces, found.bad)
        self._census.gone(blob.hex)
        self._done.blobs_damaged += 1
