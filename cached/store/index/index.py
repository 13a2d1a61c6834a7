"""The index, in SQLite: a cache of the files on the disk, and the one place where space is accounted."""

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
        """Record uses, holders (snapshot, pid, uid, command, since) and the users that were given each snapshot, many
        at a time."""
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
        """Record that these refs (key → source, revision) were resolved just now, and mean `snapshot` to `who`."""
        with self.transaction() as db:
            if db.execute("SELECT 1 FROM snapshot WHERE digest = ?", (snapshot.hex,)).fetchone():
                resolutions.resolve(db, refs, snapshot, access, who)

    def refused(self, snapshot: Digest, access: Access) -> None:
        """Record that the daemon's own credentials no longer open the snapshot under names with this access."""
        with self.transaction() as db:
            resolutions.refuse(db, snapshot, access)

    def closed(self, ref: str, who: str, snapshot: Digest) -> None:
        """Record that the ref no longer means the snapshot to `who`."""
        with self.transaction() as db:
            resolutions.close(db, ref, who, snapshot)

    def identified(self, found: Mapping[str, Digest]) -> None:
        """Record that the source was seen to have the bytes of these blobs as these remote files (by identity)."""
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
        """Start a fill: hold the blobs it counts on and reserve space for those it lacks. Return its id; None when
        short of space.

        With `promised` snapshots it begins although there is no room yet: see `Promises`. A key that another fill has
        reserved is shared, not reserved twice. Raise LookupError when a held blob, or a promised snapshot, is gone.
        """
        with self.transaction() as db:
            return fills.begin(db, source, needs, holds, capacity, promised)

    def committed(self) -> int:
        """Return the bytes used plus the bytes reserved."""
        with self.transaction() as db:
            return fills.committed(db)

    def add_blobs(self, published: Iterable[tuple[Verified, str | None, str, int]]) -> None:
        """Record published blobs, each with its identity (None if it came from elsewhere), key and st_mtime_ns:
        reserved bytes become used bytes, and every fill that wanted one now holds it."""
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
        """End a fill without a snapshot; the snapshots promised to it stay. Reservations of parts that remain
        (`parked`: bytes on the disk by key) are parked, cut down to those bytes; the others are freed."""
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
        """Make the snapshot READY: it may be handed out, to `who` for every ref of `refs` (key → source, revision). End
        its fill."""
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
        """Record an event of a snapshot that has a row, with the reason."""
        with self.transaction() as db:
            row = db.execute(
                "INSERT INTO event (at, snapshot, what, why, source) "
                "VALUES (?, ?, ?, ?, coalesce((SELECT source FROM snapshot WHERE digest = ?), ''))",
                (time.time(), snapshot.hex, what, why, snapshot.hex),
            )
            db.execute("DELETE FROM event WHERE id <= ?", ((row.lastrowid or 0) - MAX_EVENTS,))

    def surplus(self, most: int) -> list[Digest]:
        """Return the READY snapshots beyond the number `most`: those whose files others have as well, which costs
        nothing to undo, before others, and each time the least recently used first."""
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
        """Set the snapshot's state to EVICTING, unless it is pinned, and return True; also again, when an earlier
        removal failed. Return False when it is pinned or not cached."""
        with self.transaction() as db:
            changed = db.execute(
                "UPDATE snapshot SET state = 'evicting' WHERE digest = ? AND (? OR NOT EXISTS "
                "(SELECT 1 FROM pin WHERE snapshot = digest AND (until IS NULL OR until > ?))) RETURNING digest",
                (snapshot.hex, even_pinned, time.time()),
            ).fetchall()
        return bool(changed)

    def forget(self, snapshot: Digest, what: str, why: str) -> None:
        """Delete the snapshot's row. The event and its reason can still be queried."""
        with self.transaction() as db:
            self.note(snapshot, what, why)
            db.execute("DELETE FROM snapshot WHERE digest = ?", (snapshot.hex,))

    def orphaned(self) -> int:
        """Return the bytes of the blobs that `forget_orphans` would drop."""
        rows = self.query(f"SELECT coalesce(sum(size), 0) AS size FROM blob WHERE NOT damaged AND {_ORPHAN}")
        return int(rows[0]["size"])

    def forget_orphans(self) -> list[Digest]:
        """Delete the rows of blobs that no snapshot has and no fill holds, and return them; the caller removes their
        files."""
        with self.transaction() as db:
            rows = db.execute(f"DELETE FROM blob WHERE {_ORPHAN} RETURNING digest").fetchall()
        return [Digest(row["digest"]) for row in rows]

    def forget_parked(self, key: str) -> bool:
        """Free a parked reservation, and return True; return False when a fill has taken it up."""
        with self.transaction() as db:
            return fills.forget_parked(db, key)

    def condemn(self, blob: Digest, why: str) -> list[Digest] | None:
        """Mark a blob that failed a check as damaged: it no longer counts, and the snapshots that have it are not
        handed out until they are repaired.

        Return those snapshots; None when another thread has marked or removed the blob meanwhile.
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
        """Change the snapshot's state from DAMAGED to READY, and return True; return False when it was not damaged."""
        with self.transaction() as db:
            changed = db.execute(
                "UPDATE snapshot SET state = 'ready' WHERE digest = ? AND state = 'damaged' RETURNING digest",
                (snapshot.hex,),
            ).fetchall()
            if changed:
                self.note(snapshot, "mended", "all its files were here; names in its directory were linked again")
        return bool(changed)

    def mark_damaged(self, snapshot: Digest) -> None:
        """Change the snapshot's state from READY to DAMAGED: its directory does not match its manifest. The next
        acquire repairs it."""
        with self.transaction() as db:
            self._take_out(db, snapshot, "a file of its directory was changed or removed")

    def _take_out(self, db: sqlite3.Connection, snapshot: Digest, why: str) -> None:
        db.execute("UPDATE snapshot SET state = 'damaged' WHERE digest = ? AND state = 'ready'", (snapshot.hex,))
        self.note(snapshot, "damaged", why)

    def checked(self, blob: Digest, pieces: bytes, mtime_ns: int, hashed: bool) -> None:
        """Record that a check just now found the blob undamaged: all its pieces, or (`hashed`) its complete sha256."""
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
