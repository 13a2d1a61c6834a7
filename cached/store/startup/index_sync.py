"""Correct the index rows that differ from the disk, many at a time."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from cached.access import Access
from cached.model import PIECE_BYTES, Digest
from cached.store.blobs.blobs import Blobs
from cached.store.index.index import Index
from cached.store.index.resolutions import whose
from cached.store.snapshots.snapshots import Origin
from cached.store.startup.blob_scan import Census
from cached.store.startup.manifest_scan import Glance
from cached.store.startup.report import Recovered

_BATCH = 1000  # Snapshots corrected in one transaction.

_BLOB = (
    "INSERT INTO blob (digest, size, pieces, created_at, mtime_ns, damaged) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (digest) DO UPDATE SET size = excluded.size, pieces = coalesce(pieces, excluded.pieces), "
    "mtime_ns = excluded.mtime_ns, damaged = excluded.damaged"
)
_SNAPSHOT = (
    "INSERT INTO snapshot (digest, state, ref, source, revision, size, files, access, brought_by, created_at, used_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO UPDATE SET state = excluded.state, "
    "ref = excluded.ref, source = excluded.source, revision = excluded.revision, size = excluded.size, "
    "files = excluded.files, access = excluded.access, brought_by = excluded.brought_by"
)


@dataclass(frozen=True, slots=True)
class Found:
    """A snapshot as found on the disk. Only its source can provide the blobs (hex) in `missing`."""

    digest: str
    manifest: Glance
    whole: bool = True
    missing: Collection[str] = ()


class Following:
    """Compare snapshots on the disk with the index as it was at construction, and correct the index. `close` writes the
    last corrections."""

    def __init__(self, index: Index, census: Census, blobs: Blobs, written: Callable[[str], int], done: Recovered):
        """Load the index. `written` returns the `st_mtime_ns` of a snapshot's manifest."""
        self._index, self._census, self._blobs, self._written, self._done = index, census, blobs, written, done
        with index.transaction() as db:
            cursor = db.cursor()
            cursor.row_factory = None  # Plain tuples, because there may be a hundred thousand.
            self._snapshots = {
                row[0]: row[1:]
                for row in cursor.execute(
                    "SELECT digest, state, ref, source, revision, size, files, access, brought_by FROM snapshot"
                )
            }
            self._parts = dict(
                cursor.execute("SELECT snapshot, group_concat(blob) FROM snapshot_blob GROUP BY snapshot").fetchall()
            )
            self._rows = {
                row[0]: row[1:] for row in cursor.execute("SELECT digest, size, damaged FROM blob").fetchall()
            }
            self._refs = {row[0] for row in cursor.execute("SELECT ref FROM resolution")}
        self._unresolved: dict[str, tuple[int, str]] = {}
        self._wrong: list[Found] = []
        self._seen: set[str] = set()

    def knows(self, digest: str) -> bool:
        return digest in self._snapshots

    def origin(self, digest: str) -> Origin | None:
        """Return the origin of a snapshot as recorded in the index; None if the index does not have it."""
        row = self._snapshots.get(digest)
        return Origin(row[1], row[2], row[3], Access.parse(row[6]), row[7]) if row else None

    def keep(self, digest: str) -> None:
        """Keep a snapshot that cannot be read but is leased: mark it damaged, so that it is no longer served, and do
        not count it as lost."""
        self._seen.add(digest)
        with self._index.transaction() as db:
            db.execute("UPDATE snapshot SET state = 'damaged' WHERE digest = ? AND state = 'ready'", (digest,))

    def follow(self, found: Found) -> None:
        """Correct the rows of the snapshot if they differ from `found`."""
        self._seen.add(found.digest)
        ref = found.manifest.origin.ref
        if ref not in self._refs:
            at = self._written(found.digest)
            self._unresolved[ref] = max(self._unresolved.get(ref, (0, "")), (at, found.digest))  # The latest wins.
        if not self._agrees(found):
            self._wrong.append(found)
            if len(self._wrong) >= _BATCH:
                self._correct()

    def close(self) -> None:
        self._correct()
        lost = self._snapshots.keys() - self._seen
        with self._index.transaction() as db:
            for digest in lost:
                self._index.forget(Digest(digest), "lost", "its files were gone when the daemon started")
            # checked_at = 0: it may not be current, so a moving name is resolved again before it is trusted.
            db.executemany(
                "INSERT OR IGNORE INTO resolution (ref, source, revision, snapshot, checked_at, access, who, seal) "
                "SELECT ref, source, revision, digest, 0, access, ?2, "
                "seal(ref, ?2, source, revision, digest, access) FROM snapshot WHERE digest = ?1",
                [(digest, whose(self._access(db, digest))) for _, digest in self._unresolved.values()],
            )
        self._done.snapshots_lost += len(lost)

    def _access(self, db: sqlite3.Connection, digest: str) -> Access:
        row = db.execute("SELECT access FROM snapshot WHERE digest = ?", (digest,)).fetchone()
        return Access.parse(row["access"] if row else "")

    def _agrees(self, found: Found) -> bool:
        rows, missing = self._rows, found.missing
        return (
            self._snapshots.get(found.digest) == _row(found)
            and self._parts.get(found.digest) == ",".join(sorted({blob for _, _, blob in found.manifest.files}))
            and all(rows.get(blob) == (size, blob in missing) for _, size, blob in found.manifest.files)
        )

    def _correct(self) -> None:
        wrong, self._wrong = self._wrong, []
        if not wrong:
            return
        now = time.time()
        with self._index.transaction() as db:
            db.executemany(_BLOB, [row for found in wrong for row in self._blob_rows(found, now)])
            db.executemany(_SNAPSHOT, [(found.digest, *_row(found), now, now) for found in wrong])
            db.executemany("DELETE FROM snapshot_blob WHERE snapshot = ?", [(found.digest,) for found in wrong])
            db.executemany(
                "INSERT INTO snapshot_blob (snapshot, blob) VALUES (?, ?)",
                {(found.digest, blob) for found in wrong for _, _, blob in found.manifest.files},
            )
            for found in wrong:
                self._note(found)

    def _blob_rows(self, found: Found, now: float) -> Iterable[tuple[object, ...]]:
        for blob, size in {blob: size for _, size, blob in found.manifest.files}.items():
            missing = blob in found.missing
            lying = None if missing else self._census.get(blob)
            if self._rows.get(blob) not in (None, (size, missing)):
                self._done.blobs_corrected += 1
            self._rows[blob] = (size, missing)
            at = lying.mtime_ns if lying else None
            pieces = self._blobs.known_pieces(Digest(blob), size, at) if at and size > PIECE_BYTES else None
            yield blob, size, pieces, now, at, missing

    def _note(self, found: Found) -> None:
        if found.digest not in self._snapshots:
            self._done.snapshots_restored += 1
            what, why = (
                "restored",
                f"found on the disk when the daemon started; it came from {found.manifest.origin.source}",
            )
        else:
            self._done.snapshots_corrected += 1
            what, why = "corrected", "the index said something else of it than its manifest when the daemon started"
        if not found.whole:
            what, why = "damaged", f"{len(found.missing)} of its blobs were gone or damaged when the daemon started"
        self._index.note(Digest(found.digest), what, why)


def _row(found: Found) -> tuple[object, ...]:
    state, origin = "ready" if found.whole else "damaged", found.manifest.origin
    named, files = (state, origin.ref, origin.source, origin.revision), len(found.manifest.files)
    return *named, found.manifest.size, files, str(origin.access), origin.brought_by
