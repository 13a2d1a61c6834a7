"""The store as a whole: changes to the disk and to the index together, in the order that survives a crash."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cached.access import Access
from cached.config import Config
from cached.errors import DigestMismatch, StoreDegraded
from cached.model import Digest, Entry, Manifest
from cached.store import publish, usage
from cached.store.blobs import verify
from cached.store.blobs.blobs import Blobs
from cached.store.blobs.ingest import Verified
from cached.store.blobs.quarantine import Quarantine
from cached.store.blobs.verify import Checkup
from cached.store.disk import delete_tree, disk_errors
from cached.store.index.hits import BlobRow
from cached.store.index.index import Index
from cached.store.index.opening import open_index
from cached.store.index.promises import Promises
from cached.store.layout import Layout
from cached.store.overhead import Overhead
from cached.store.permissions import Entrants
from cached.store.proofs import Proofs
from cached.store.publish import Arrival
from cached.store.snapshots.leases import Leases
from cached.store.snapshots.snapshots import Origin, Snapshots
from cached.store.startup.read_only import FrozenIndex, read_only, take_out_broken
from cached.store.startup.reconcile import correct, reconcile
from cached.store.startup.report import Recovered
from cached.store.startup.root_lock import RootLock
from cached.store.usage import Usage

log = logging.getLogger("cached.store")

SNAPSHOTS = 10_000  # At most: other patterns make any number of them from the same few files.


class Store:
    def __init__(self, config: Config) -> None:
        """Claim the root and make disk and index agree. Raise StoreDegraded when that is not possible.

        On a file system that is read-only the store is `frozen`: its contents can be read, and nothing can be written.
        """
        self.layout = Layout(config.root)
        self._config = config
        self.frozen = read_only(config.root)
        self._root_lock = RootLock.hold(self.layout) if self.frozen else RootLock.take(self.layout)
        try:
            self.blobs = Blobs(self.layout)
            self.snapshots = Snapshots(self.layout)
            self.quarantine = Quarantine(self.layout)
            self.leases = Leases(self.layout, config.max_leases_per_user)
            self.index, self.recovered = self._frozen() if self.frozen else self._reconciled()
            own_open = "*" in config.own_credentials_for
            self.entrants = Entrants(self.layout, self.index, self.leases, config.access == "caller", own_open)
            self.proofs = Proofs(self.index)
            self.promises = Promises(self.index)
            if not self.frozen:
                self.entrants.settle()
        except BaseException:
            self._root_lock.close()
            raise
        # Publishing and removing exclude each other: else a blob could be removed between its check and its row.
        # A store's locks are acquired in this order, some left out: the change of leases
        # (`Leases.exclusive` and `make`), this one, that of the entrants, the index's transaction, `locks.trying`.
        self._publishing = threading.RLock()

    def _reconciled(self) -> tuple[Index, Recovered]:
        opened = open_index(self.layout)
        index, state = opened.index, opened.state
        return index, reconcile(self.layout, index, self.blobs, self.snapshots, self.leases, state, opened.damaged)

    def _frozen(self) -> tuple[Index, Recovered]:
        index, done = FrozenIndex(self.layout), Recovered(index="kept")
        correct(index, done)
        take_out_broken(index, self.snapshots)
        return index, done

    @property
    def claim(self) -> int:
        """The descriptor whose lock is the claim on the root; a process that shares it keeps the claim."""
        return self._root_lock.fd

    def close(self) -> None:
        self.index.close()
        self._root_lock.close()

    def usage(self) -> Usage:
        """Return the bytes used and the bytes allowed, with the real free space of the file system taken into
        account."""
        return usage.look(self.layout, self._config, self.index, self.blobs, self.quarantine)

    def overhead(self) -> Overhead:
        """Return the space that snapshots take beside blobs."""
        return usage.look_beside(self.index, usage.index_bytes(self.layout))[0]

    def abandon(self, fill: int) -> None:
        """End a fill that made no snapshot. Its partial downloads on the disk are parked."""
        with self._publishing:  # From the scan of the disk on: a part that another fill parks meanwhile stays reserved.
            self.index.abandon(fill, self.blobs.parts())

    def drop_surplus(self) -> None:
        """Evict snapshots beyond SNAPSHOTS, unless they are leased or pinned."""
        for digest in self.index.surplus(SNAPSHOTS):
            self.evict(digest, f"there were more than {SNAPSHOTS:,}")

    def publish(self, arrivals: Sequence[Arrival]) -> None:
        """Give the blobs their names, durably, then write their rows: all in one transaction."""
        for arrival in arrivals:
            self._doubt(arrival.verified)
        with self._publishing, disk_errors("publishing"):
            publish.publish(self.index, self.blobs, arrivals)
        for arrival in arrivals:
            digest = arrival.verified.digest.hex
            log.debug("blob.published", extra={"digest": digest, "bytes": arrival.verified.size})

    def _doubt(self, verified: Verified) -> None:
        """Check a file that exists under the blob's name, and quarantine it if it is damaged: it may replace the bytes
        just verified only if it is as good as they are."""
        if not self.blobs.taken(verified.digest):
            return
        path = str(self.blobs.path(verified.digest))
        found = verify.check(path, verified.digest, verified.size, verified.pieces, deep=False)
        if found.problem is not None and self.condemn(verified.digest, found) is None:
            with self._publishing:  # It has no row, or one that marks it as damaged.
                if verify.identity(path) == found.seen:
                    self.blobs.quarantine(verified.digest, verified.size, None, ())

    def take_arrived(self, wants: Mapping[str, tuple[Entry, str]]) -> dict[str, Digest]:
        """Return those wanted files (by key: the entry and its identity) that other fills have published since they
        were looked for. Every fill that wants one then holds it, and the partial download under that key is deleted."""
        with self._publishing:
            found = publish.take_arrived(self.index, self.blobs, wants)
            for key in found:
                self.blobs.discard_part(key)
        return found

    def commit(
        self, manifest: Manifest, origin: Origin, refs: dict[str, tuple[str, str]], fill: int | None, who: str = ""
    ) -> Path:
        """Build the snapshot, then allow it to be served; return its path. Raise DigestMismatch when one of its blobs
        was found damaged."""
        with self._publishing:
            there = self._build(manifest, origin)
            self.index.commit(manifest, origin, refs, fill, who)
            self._follow_access(manifest.digest, (manifest, there))
        log.info("snapshot.ready", extra={"digest": manifest.digest.hex, "source": origin.source})
        return self.snapshots.path(manifest.digest)

    def resolved(self, refs: Mapping[str, tuple[str, str]], snapshot: Digest, access: Access, who: str = "") -> None:
        """Record that these refs (key → source, revision) were resolved just now, and mean the snapshot to `who`."""
        with self._publishing:
            self.index.resolved(refs, snapshot, access, who)
            self._follow_access(snapshot, self.snapshots.read(snapshot))

    def refused(self, snapshot: Digest, access: Access) -> None:
        """Record that the daemon's own credentials no longer open the snapshot."""
        with self._publishing:
            self.index.refused(snapshot, access)
            self._follow_access(snapshot, self.snapshots.read(snapshot))

    def closed(self, ref: str, who: str, snapshot: Digest) -> None:
        """Record that the ref no longer means the snapshot to `who`. The snapshot may be less open without it."""
        with self._publishing:
            self.index.closed(ref, who, snapshot)
            self._follow_access(snapshot, self.snapshots.read(snapshot))

    def _follow_access(self, snapshot: Digest, written: tuple[Manifest, Origin] | None) -> None:
        """Make the manifest and the directory agree with the index on the access to the snapshot. `written` is the
        manifest on the disk."""
        access = self.index.access(snapshot)
        try:
            if written is not None and written[1].access != access:
                manifest, origin = written
                with self.entrants.still(), disk_errors(f"rewriting the manifest of {snapshot.hex[:12]}"):
                    self.snapshots.rewrite(manifest, replace(origin, access=access))
        finally:
            self.entrants.apply(snapshot)  # Even if the manifest was not written: a closed snapshot is not left open.

    def _build(self, manifest: Manifest, origin: Origin) -> Origin:
        try:
            return self.snapshots.build(manifest, origin)
        except StoreDegraded as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            # It was found damaged and quarantined after the fill began to hold it.
            raise DigestMismatch(
                f"A file of {origin.source} is not there any more; it has to be fetched again."
            ) from error

    def evict(self, digest: Digest, why: str, even_pinned: bool = False) -> bool:
        """Remove a snapshot and the blobs that only it has. Return False when it is leased, pinned (unless
        `even_pinned`) or gone."""
        with self.leases.exclusive(digest) as free:
            if not free:
                return False
            with self._publishing:  # From the choice on: a snapshot committed, or pinned, meanwhile is not removed.
                if not self.index.evicting(digest, even_pinned):
                    return False
                self.index.forget(digest, "evicted", why)
                doomed = [self.snapshots.remove(digest)]
                doomed += self._drop_orphans()
        _delete(doomed)
        log.info("snapshot.evicted", extra={"digest": digest.hex, "why": why})
        return True

    def drop_orphans(self) -> None:
        """Remove blobs that no snapshot has and no fill holds."""
        with self._publishing:
            doomed = self._drop_orphans()
        _delete(doomed)

    def _drop_orphans(self) -> list[Path | None]:
        return [self.blobs.remove(digest) for digest in self.index.forget_orphans()]

    def drop_parked(self, key: str) -> bool:
        """Delete a partial download. Return False when a fill waits for it, or there is none."""
        with self._publishing:
            if not self.index.forget_parked(key):
                return False
            self.blobs.discard_part(key)
        return True

    def parked(self, older_than: float = 0.0) -> list[str]:
        """Return the keys of partial downloads that no fill waits for and that are at least `older_than` seconds old,
        oldest first."""
        rows = self.index.query(
            "SELECT key FROM reservation WHERE key NOT IN (SELECT key FROM want) AND created_at <= ? "
            "ORDER BY created_at",
            (time.time() - older_than,),
        )
        return [row["key"] for row in rows]

    def condemn(self, digest: Digest, found: Checkup) -> list[Digest] | None:
        """Quarantine a blob that failed a check. The snapshots that have it are not served until repaired; return them.

        Return None when somebody else has marked it as damaged, removed it or replaced it meanwhile.
        """
        with self._publishing:
            if verify.identity(str(self.blobs.path(digest))) != found.seen:
                return None
            row = self.blob(digest)
            affected = self.index.condemn(digest, found.problem or "damaged")
            if row is None or affected is None:
                return None
            self.blobs.quarantine(digest, row.size, row.pieces, found.bad)
        log.error(
            "blob.damaged",
            extra={"digest": digest.hex, "problem": found.problem, "snapshots": [s.hex[:12] for s in affected]},
        )
        return affected

    def relink(self, snapshot: Digest) -> bool:
        """Repair a snapshot whose blobs all exist. Return False when one does not, or the snapshot was not marked
        damaged."""
        with self._publishing:
            read = self.snapshots.read(snapshot)
            if read is None or not all(self._sound(blob, size) for blob, size in read[0].blobs.items()):
                return False
            with disk_errors("mending a snapshot"):
                self.snapshots.mend(read[0])
            self.entrants.apply(snapshot)  # The directory may have been made anew.
            return self.index.mended(snapshot)

    def intact(self, snapshot: Digest) -> bool:
        """Return whether the snapshot's directory agrees with its manifest, no change of ours being under way."""
        with self._publishing:
            read = self.snapshots.read(snapshot)
            return read is not None and self.snapshots.intact(read[0])

    def _sound(self, blob: Digest, size: int) -> bool:
        return self.blob(blob) is not None and self.blobs.size(blob) == size

    def blob(self, digest: Digest) -> BlobRow | None:
        """Return the row of a blob that is cached and not damaged; None otherwise."""
        rows = self.index.query("SELECT size, pieces FROM blob WHERE digest = ? AND NOT damaged", (digest.hex,))
        return BlobRow(rows[0]["size"], rows[0]["pieces"]) if rows else None

    def wanted_back(self, key: str) -> Digest | None:
        """Return the damaged blob that a download of this key is to replace; None if there is none."""
        rows = self.index.query("SELECT digest FROM blob WHERE digest = ? AND damaged", (key,))
        return Digest(rows[0]["digest"]) if rows else None


def _delete(paths: list[Path | None]) -> None:
    with disk_errors("emptying the trash"):
        for path in paths:
            if path is not None:
                delete_tree(path)
