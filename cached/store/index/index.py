"""What the node holds, in SQLite: a cache of what lies on the disk, and the one place where space is accounted."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from cached.access import Access
from cached.model import Digest, Manifest
from cached.store.blobs.ingest import Verified
from cached.store.index import fills, resolutions, trim
from cached.store.index.hits import Hits
from cached.store.index.use_clock import steady_time
from cached.store.snapshots.snapshots import Origin

MAX_EVENTS = 10_000

_IDENTITY = (
    "INSERT OR IGNORE INTO identity SELECT ?1, ?2, seal(?1, ?2) WHERE EXISTS (SELECT 1 FROM blob WHERE digest = ?2)"
)
_FREE = "NOT EXISTS (SELECT 1 FROM {} WHERE blob = digest)"
_ORPHAN = f"{_FREE.format('snapshot_blob')} AND {_FREE.format('hold')}"


class Index(Hits):
    # Uses and names.

    def touch(
        self,
        used: dict[Digest, float],
        leases: Iterable[tuple[Digest, int, int, str, float]] = (),
        users: Mapping[tuple[Digest, int], float] = MappingProxyType({}),
    ) -> None:
        """Remember uses, holders (snapshot, pid, uid, command, since) and who was given what, many at a time."""
        now = steady_time()
        with self.transaction() as db:
            db.executemany(  # A use that is later than now would count for ever.
                "UPDATE snapshot SET used_at = min(max(used_at, ?), ?) WHERE digest = ?",
                [(at, now, d.hex) for d, at in used.items()],
            )
            db.executemany(
                "INSERT OR REPLACE INTO lease SELECT ?, ?, ?, ?, ? "
                "WHERE EXISTS (SELECT 1 FROM snapshot WHERE digest = ?)",
                [(d.hex, pid, uid, command, since, d.hex) for d, pid, uid, command, since in leases],
            )
            trim.leases(db)
            db.executemany(
                "INSERT INTO sharing SELECT digest, ?2, min(?3, ?4) FROM snapshot WHERE digest = ?1 "
                "AND brought_by IS NOT ?2 ON CONFLICT DO UPDATE SET at = min(max(at, excluded.at), ?4)",
                [(digest.hex, uid, at, now) for (digest, uid), at in users.items()],
            )
            trim.sharers(db, {digest.hex for digest, _ in users})

    def resolved(self, refs: Mapping[str, tuple[str, str]], snapshot: Digest, access: Access, who: str = "") -> None:
        """These refs (key → source, revision) were asked just now, and mean `snapshot` to `who`."""
        with self.transaction() as db:
            if db.execute("SELECT 1 FROM snapshot WHERE digest = ?", (snapshot.hex,)).fetchone():
                resolutions.resolve(db, refs, snapshot, access, who)

    def refused(self, snapshot: Digest, access: Access) -> None:
        """The daemon's own credentials do not open it any more."""
        with self.transaction() as db:
            resolutions.refuse(db, snapshot, access)

    def closed(self, ref: str, who: str, snapshot: Digest) -> None:
        """The ref does not mean the snapshot to `who` any more."""
        with self.transaction() as db:
            resolutions.close(db, ref, who, snapshot)

    def identified(self, found: Mapping[str, Digest]) -> None:
        """The source was seen to have the bytes of these blobs as these remote files (by identity)."""
        with self.transaction() as db:
            _identify(db, found)

    # Fills.

    def begin(
        self,
        source: str,
        needs: dict[str, int],
        holds: Iterable[Digest],
        capacity: int,
        promised: fills.Promised | None = None,
    ) -> int | None:
        """Start a fill: hold the blobs it counts on and reserve for those it lacks. Its id; None when short of space.

        With what is `promised` it begins though there is no room yet, see `Promises`. A key that another fill has
        reserved is shared, not reserved twice. LookupError when a held blob, or a promised snapshot, is gone.
        """
        with self.transaction() as db:
            return fills.begin(db, source, needs, holds, capacity, promised)

    def committed(self) -> int:
        """Bytes used plus reserved."""
        with self.transaction() as db:
            return fills.committed(db)

    def add_blobs(self, published: Iterable[tuple[Verified, str | None, str, int]]) -> None:
        """Blobs were published, each with its identity (unless it came from elsewhere), key and st_mtime_ns:
        reservations become use, and every fill that wanted one now holds it."""
        now, rows = time.time(), list(published)
        with self.transaction() as db:
            db.executemany(
                "INSERT INTO blob (digest, size, pieces, created_at, mtime_ns, checked_at, hashed_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO UPDATE SET pieces = excluded.pieces, "
                "damaged = 0, mtime_ns = excluded.mtime_ns, checked_at = excluded.checked_at, "
                "hashed_at = excluded.hashed_at",
                [(each.digest.hex, each.size, each.pieces, now, at, now, now) for each, _, _, at in rows],
            )
            _identify(db, {identity: each.digest for each, identity, _, _ in rows if identity is not None})
            fills.fulfil(db, [(key, each.digest) for each, _, key, _ in rows])

    def abandon(self, fill: int, parked: Mapping[str, int]) -> None:
        """A fill ended without a snapshot: what was promised to it stays. Reservations of parts that remain (bytes on
        the disk by key) are parked, cut down to those bytes; the others are freed."""
        with self.transaction() as db:
            db.execute("DELETE FROM fill WHERE id = ?", (fill,))
            fills.free(db, parked)

    def commit(
        self,
        manifest: Manifest,
        origin: Origin,
        refs: Mapping[str, tuple[str, str]],
        fill: int | None,
        who: str = "",
    ) -> None:
        """READY: the snapshot may be handed out, to `who` for every ref of `refs` (key → source, revision)."""
        digest, now, files = manifest.digest.hex, time.time(), len(manifest.files)
        with self.transaction() as db:
            db.execute(
                "INSERT INTO snapshot (digest, ref, source, revision, brought_by, size, files, created_at, used_at, "
                "state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'ready') ON CONFLICT (digest) DO UPDATE SET state='ready'",
                (digest, *origin.named, manifest.size, files, now, steady_time()),
            )
            db.executemany(
                "INSERT OR IGNORE INTO snapshot_blob VALUES (?, ?)", [(digest, b.hex) for b in manifest.blobs]
            )
            resolutions.resolve(db, refs, manifest.digest, origin.access, who)
            if fill is not None:
                db.execute("DELETE FROM fill WHERE id = ?", (fill,))
            self.note(manifest.digest, "ready", f"fetched from {origin.source} at {origin.revision}")

    def note(self, snapshot: Digest, what: str, why: str) -> None:
        """Remember what happened to a snapshot that has a row."""
        with self.transaction() as db:
            row = db.execute(
                "INSERT INTO event (at, snapshot, what, why, source) "
                "VALUES (?, ?, ?, ?, coalesce((SELECT source FROM snapshot WHERE digest = ?), ''))",
                (time.time(), snapshot.hex, what, why, snapshot.hex),
            )
            db.execute("DELETE FROM event WHERE id <= ?", ((row.lastrowid or 0) - MAX_EVENTS,))

    def surplus(self, most: int) -> list[Digest]:
        """READY snapshots beyond so many: those whose files others have as well, which costs nothing to undo, before
        others, and each time the least recently used first."""
        rows = self.query(
            "SELECT digest FROM snapshot s WHERE state = 'ready' ORDER BY "
            "EXISTS (SELECT 1 FROM snapshot_blob b WHERE b.snapshot = s.digest AND NOT EXISTS "
            "(SELECT 1 FROM snapshot_blob o WHERE o.blob = b.blob AND o.snapshot <> s.digest)), used_at "
            "LIMIT max(0, (SELECT count(*) FROM snapshot WHERE state = 'ready') - ?)",
            (most,),
        )
        return [Digest(row["digest"]) for row in rows]

    # Removal.

    def evicting(self, snapshot: Digest, even_pinned: bool = False) -> bool:
        """→ EVICTING, unless it is pinned; also again, when an earlier removal failed. False when it is not here."""
        with self.transaction() as db:
            changed = db.execute(
                "UPDATE snapshot SET state = 'evicting' WHERE digest = ? AND (? OR NOT EXISTS "
                "(SELECT 1 FROM pin WHERE snapshot = digest AND (until IS NULL OR until > ?))) RETURNING digest",
                (snapshot.hex, even_pinned, time.time()),
            ).fetchall()
        return bool(changed)

    def forget(self, snapshot: Digest, what: str, why: str) -> None:
        """Drop its row; what happened and why can still be asked."""
        with self.transaction() as db:
            self.note(snapshot, what, why)
            db.execute("DELETE FROM snapshot WHERE digest = ?", (snapshot.hex,))

    def orphaned(self) -> int:
        """Bytes of blobs that `forget_orphans` would drop."""
        rows = self.query(f"SELECT coalesce(sum(size), 0) AS size FROM blob WHERE NOT damaged AND {_ORPHAN}")
        return int(rows[0]["size"])

    def forget_orphans(self) -> list[Digest]:
        """Drop the rows of blobs that no snapshot has and no fill holds; their files are the caller's to remove."""
        with self.transaction() as db:
            rows = db.execute(f"DELETE FROM blob WHERE {_ORPHAN} RETURNING digest").fetchall()
        return [Digest(row["digest"]) for row in rows]

    def forget_parked(self, key: str) -> bool:
        """Free a parked reservation; False when a fill has taken it up."""
        with self.transaction() as db:
            return fills.forget_parked(db, key)

    def condemn(self, blob: Digest, why: str) -> list[Digest] | None:
        """The blob failed a check: it counts no more, and the snapshots that have it are not handed out until mended.

        Those snapshots; None when somebody else has condemned or removed it meanwhile.
        """
        with self.transaction() as db:
            changed = db.execute(
                "UPDATE blob SET damaged = 1, mtime_ns = NULL WHERE digest = ? AND NOT damaged RETURNING digest",
                (blob.hex,),
            ).fetchall()
            if not changed:
                return None
            rows = db.execute("SELECT snapshot FROM snapshot_blob WHERE blob = ?", (blob.hex,)).fetchall()
            affected = [Digest(row["snapshot"]) for row in rows]
            for snapshot in affected:
                self._take_out(db, snapshot, f"blob {blob.hex[:12]}: {why}")
        return affected

    def mended(self, snapshot: Digest) -> bool:
        """DAMAGED → READY; False when it was not damaged."""
        with self.transaction() as db:
            changed = db.execute(
                "UPDATE snapshot SET state = 'ready' WHERE digest = ? AND state = 'damaged' RETURNING digest",
                (snapshot.hex,),
            ).fetchall()
            if changed:
                self.note(snapshot, "mended", "all its files were here; names in its directory were linked again")
        return bool(changed)

    def mark_damaged(self, snapshot: Digest) -> None:
        """READY → DAMAGED: its directory is not what its manifest says; the next acquire mends it."""
        with self.transaction() as db:
            self._take_out(db, snapshot, "a file of its directory was changed or removed")

    def _take_out(self, db: sqlite3.Connection, snapshot: Digest, why: str) -> None:
        db.execute("UPDATE snapshot SET state = 'damaged' WHERE digest = ? AND state = 'ready'", (snapshot.hex,))
        self.note(snapshot, "damaged", why)

    def checked(self, blob: Digest, pieces: bytes, mtime_ns: int, hashed: bool) -> None:
        """A check found it right, just now: all its pieces, or (`hashed`) its whole sha256."""
        now = time.time()
        with self.transaction() as db:
            db.execute(
                "UPDATE blob SET pieces = ?, mtime_ns = ?, checked_at = ?, hashed_at = CASE WHEN ? THEN ? "
                "ELSE hashed_at END WHERE digest = ? AND NOT damaged",
                (pieces, mtime_ns, now, hashed, now, blob.hex),
            )

    def pin(self, snapshot: Digest, until: float | None, uid: int) -> None:
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO pin VALUES (?, ?, ?, ?)", (snapshot.hex, until, uid, time.time()))

    def unpin(self, snapshot: Digest) -> None:
        with self.transaction() as db:
            db.execute("DELETE FROM pin WHERE snapshot = ?", (snapshot.hex,))


def _identify(db: sqlite3.Connection, found: Mapping[str, Digest]) -> None:
    rows = [(identity, blob.hex) for identity, blob in found.items()]
    db.executemany(_IDENTITY, rows)
    trim.identities(db, rows)
