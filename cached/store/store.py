"""The store as a whole: what must happen to the disk and to the index together, in the order that survives a crash."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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

SNAPSHOTS = 10_000  # At most: by other patterns the same few files make any number.


@dataclass(frozen=True, slots=True)
class BlobRow:
    """A blob as the index knows it. `pieces`: the XXH3-128 of each piece, 16 bytes apiece, if known."""

    size: int
    pieces: bytes | None


class Store:
    def __init__(self, config: Config) -> None:
        """Claim the root and make disk and index agree. StoreDegraded when that cannot be.

        On a file system that is read-only the store is `frozen`: what it holds can be read, and nothing be written.
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
        # Publishing and removing exclude each other: else a blob could be taken away between its check and its row.
        # Who holds several of a store's locks took them in this order, some left out: the change of leases
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
        """The descriptor whose lock is the claim on the root; who shares it keeps that up."""
        return self._root_lock.fd

    def close(self) -> None:
        self.index.close()
        self._root_lock.close()

    def usage(self) -> Usage:
        """What is taken and what may be, the real free space of the file system included."""
        return usage.look(self.layout, self._config, self.index, self.blobs, self.quarantine)

    def overhead(self) -> Overhead:
        """What is taken beside blobs."""
        return usage.look_beside(self.index, usage.index_bytes(self.layout))[0]

    def abandon(self, fill: int) -> None:
        """A fill has ended without a snapshot. What lies on the disk for it is parked."""
        with self._publishing:  # From the look at the disk on: what another fill lands, and parks, stays reserved.
            self.index.abandon(fill, self.blobs.parts())

    def drop_surplus(self) -> None:
        """Remove snapshots beyond SNAPSHOTS that nobody holds."""
        for digest in self.index.surplus(SNAPSHOTS):
            self.evict(digest, f"there were more than {SNAPSHOTS:,}")

    def publish(self, arrivals: Sequence[Arrival]) -> None:
        """Name the blobs, durably, then write their rows: all in one transaction."""
        for arrival in arrivals:
            self._doubt(arrival.verified)
        with self._publishing, disk_errors("publishing"):
            publish.publish(self.index, self.blobs, arrivals)
        for arrival in arrivals:
            digest = arrival.verified.digest.hex
            log.debug("blob.published", extra={"digest": digest, "bytes": arrival.verified.size})

    def _doubt(self, verified: Verified) -> None:
        """What lies under the name already takes the place of what has just been verified only if it is as sound."""
        if not self.blobs.taken(verified.digest):
            return
        path = str(self.blobs.path(verified.digest))
        found = verify.check(path, verified.digest, verified.size, verified.pieces, deep=False)
        if found.problem is not None and self.condemn(verified.digest, found) is None:
            with self._publishing:  # No row says that it is there, or one that it is damaged.
                if verify.identity(path) == found.seen:
                    self.blobs.quarantine(verified.digest, verified.size, None, ())

    def take_arrived(self, wants: Mapping[str, tuple[Entry, str]]) -> dict[str, Digest]:
        """Of wanted files (by key: the entry and its identity) those that others have brought since they were looked
        for: every fill that wants one holds it, and what had landed of it under that key is gone."""
        with self._publishing:
            found = publish.take_arrived(self.index, self.blobs, wants)
            for key in found:
                self.blobs.discard_part(key)
        return found

    def commit(
        self, manifest: Manifest, origin: Origin, refs: dict[str, tuple[str, str]], fill: int | None, who: str = ""
    ) -> Path:
        """Build the snapshot, then let it be handed out. DigestMismatch when a blob of it has been condemned."""
        with self._publishing:
            there = self._build(manifest, origin)
            self.index.commit(manifest, origin, refs, fill, who)
            self._follow_access(manifest.digest, (manifest, there))
        log.info("snapshot.ready", extra={"digest": manifest.digest.hex, "source": origin.source})
        return self.snapshots.path(manifest.digest)

    def resolved(self, refs: Mapping[str, tuple[str, str]], snapshot: Digest, access: Access, who: str = "") -> None:
        """These refs (key → source, revision) were asked just now, and mean the snapshot to `who`."""
        with self._publishing:
            self.index.resolved(refs, snapshot, access, who)
            self._follow_access(snapshot, self.snapshots.read(snapshot))

    def refused(self, snapshot: Digest, access: Access) -> None:
        """The daemon's own credentials do not open it any more."""
        with self._publishing:
            self.index.refused(snapshot, access)
            self._follow_access(snapshot, self.snapshots.read(snapshot))

    def closed(self, ref: str, who: str, snapshot: Digest) -> None:
        """The ref does not mean anything to `who` any more, which made it as open as it was."""
        with self._publishing:
            self.index.closed(ref, who, snapshot)
            self._follow_access(snapshot, self.snapshots.read(snapshot))

    def _follow_access(self, snapshot: Digest, written: tuple[Manifest, Origin] | None) -> None:
        """Manifest and directory are to say of who may read it what the index does. `written`: what the former says."""
        access = self.index.access(snapshot)
        try:
            if written is not None and written[1].access != access:
                manifest, origin = written
                with self.entrants.still(), disk_errors(f"rewriting the manifest of {snapshot.hex[:12]}"):
                    self.snapshots.rewrite(manifest, replace(origin, access=access))
        finally:
            self.entrants.apply(snapshot)  # Whatever became of the manifest: what closes is shut.

    def _build(self, manifest: Manifest, origin: Origin) -> Origin:
        try:
            return self.snapshots.build(manifest, origin)
        except StoreDegraded as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            # Found damaged, and put aside, since the fill began to count on it.
            raise DigestMismatch(
                f"A file of {origin.source} is not there any more; it has to be fetched again."
            ) from error

    def evict(self, digest: Digest, why: str, even_pinned: bool = False) -> bool:
        """Remove a snapshot and the blobs that only it had. False when it is leased, pinned or gone."""
        with self.leases.exclusive(digest) as free:
            if not free:
                return False
            with self._publishing:  # From the choice on: else one that is committed, or pinned, meanwhile would go.
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
        """Give up a partial download that nobody is waiting for."""
        with self._publishing:
            if not self.index.forget_parked(key):
                return False
            self.blobs.discard_part(key)
        return True

    def parked(self, older_than: float = 0.0) -> list[str]:
        """Keys of partial downloads that nobody is waiting for, oldest first; age in seconds."""
        rows = self.index.query(
            "SELECT key FROM reservation WHERE key NOT IN (SELECT key FROM want) AND created_at <= ? "
            "ORDER BY created_at",
            (time.time() - older_than,),
        )
        return [row["key"] for row in rows]

    def condemn(self, digest: Digest, found: Checkup) -> list[Digest] | None:
        """A blob failed a check: put it aside. The snapshots that have it are not handed out until mended.

        None when somebody else has condemned, removed or replaced it meanwhile.
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
        """Mend a snapshot all of whose blobs are here. False when one is not, or it need not be mended."""
        with self._publishing:
            read = self.snapshots.read(snapshot)
            if read is None or not all(self._sound(blob, size) for blob, size in read[0].blobs.items()):
                return False
            with disk_errors("mending a snapshot"):
                self.snapshots.mend(read[0])
            self.entrants.apply(snapshot)  # Of a directory that had to be made anew.
            return self.index.mended(snapshot)

    def intact(self, snapshot: Digest) -> bool:
        """Whether its directory is what its manifest says, no change of ours being under way."""
        with self._publishing:
            read = self.snapshots.read(snapshot)
            return read is not None and self.snapshots.intact(read[0])

    def _sound(self, blob: Digest, size: int) -> bool:
        return self.blob(blob) is not None and self.blobs.size(blob) == size

    def blob(self, digest: Digest) -> BlobRow | None:
        """What the index knows of a blob that is here and not damaged."""
        rows = self.index.query("SELECT size, pieces FROM blob WHERE digest = ? AND NOT damaged", (digest.hex,))
        return BlobRow(rows[0]["size"], rows[0]["pieces"]) if rows else None

    def wanted_back(self, key: str) -> Digest | None:
        """The damaged blob that a download of this key is to replace."""
        rows = self.index.query("SELECT digest FROM blob WHERE digest = ? AND damaged", (key,))
        return Digest(rows[0]["digest"]) if rows else None


def _delete(paths: list[Path | None]) -> None:
    with disk_errors("emptying the trash"):
        for path in paths:
            if path is not None:
                delete_tree(path)
