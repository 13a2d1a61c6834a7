"""The store as a whole: what must happen to the disk and to the index together, in the order that survives a crash."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cached.config import Config
from cached.model import Digest, Manifest
from cached.store.blobs import Blobs
from cached.store.ingest import Verified
from cached.store.layout import Layout, RootLock, disk_errors
from cached.store.leases import exclusive
from cached.store.reconcile import open_index, reconcile
from cached.store.snapshots import Origin, Snapshots, delete_tree

log = logging.getLogger("cached.store")


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes. `limit` is what blobs and reservations may take right now."""

    limit: int
    used: int
    reserved: int
    free: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """A verified blob that waits for its name and its row. `key` is what its ingest is called."""

    key: str
    verified: Verified
    identity: str


class Store:
    def __init__(self, config: Config) -> None:
        """Claim the root and make disk and index agree. StoreDegraded when that cannot be."""
        self.layout = Layout(config.root)
        self._config = config
        self._root_lock = RootLock.take(self.layout)
        try:
            self.blobs = Blobs(self.layout)
            self.snapshots = Snapshots(self.layout)
            self.index = open_index(self.layout)
            self.recovered = reconcile(self.layout, self.index, self.blobs, self.snapshots)
        except BaseException:
            self._root_lock.close()
            raise
        # Publishing and removing exclude each other: else a blob could be taken away between its check and its row.
        self._publishing = threading.RLock()

    @property
    def claim(self) -> int:
        """The descriptor whose lock is the claim on the root; who shares it keeps that up."""
        return self._root_lock.fd

    def close(self) -> None:
        self.index.close()
        self._root_lock.close()

    def usage(self) -> Usage:
        """What is taken and what may be, the real free space of the file system included."""
        row = self.index.query(
            "SELECT (SELECT coalesce(sum(size), 0) FROM blob) AS used, "
            "(SELECT coalesce(sum(bytes), 0) FROM reservation) AS reserved"
        )[0]
        system = os.statvfs(self.layout.root)
        free = system.f_bavail * system.f_frsize
        configured = int(self._config.limit) or system.f_blocks * system.f_frsize * 9 // 10
        parts = sum(self.blobs.parts().values())
        limit = min(configured, max(0, row["used"] + parts + free - int(self._config.keep_free)))
        return Usage(limit, row["used"], row["reserved"], free)

    def publish(self, arrivals: Sequence[Arrival]) -> None:
        """Name the blobs, durably, then write their rows: all in one transaction."""
        with self._publishing, disk_errors("publishing"):
            for arrival in arrivals:
                self.blobs.publish(arrival.key, arrival.verified)
            self.blobs.sync(arrival.verified.digest for arrival in arrivals)
            self.index.add_blobs((each.verified, each.identity, each.key) for each in arrivals)
        for arrival in arrivals:
            digest = arrival.verified.digest.hex
            log.debug("blob.published", extra={"digest": digest, "bytes": arrival.verified.size})

    def commit(self, manifest: Manifest, origin: Origin, refs: dict[str, tuple[str, str]], fill: int | None) -> Path:
        """Build the snapshot, then let it be handed out."""
        with self._publishing:
            path = self.snapshots.build(manifest, origin)
            self.index.commit(manifest, origin, refs, fill)
        log.info("snapshot.ready", extra={"digest": manifest.digest.hex, "source": origin.source})
        return path

    def evict(self, digest: Digest, why: str, even_pinned: bool = False) -> bool:
        """Remove a snapshot and the blobs that only it had. False when it is leased, pinned or already going."""
        with exclusive(self.snapshots.lock(digest)) as free:
            if not free or not self.index.evicting(digest, even_pinned):
                return False
            with self._publishing:
                self.index.forget(digest)
                self.index.note(digest, "evicted", why)
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

    def condemn(self, digest: Digest) -> list[Digest] | None:
        """A blob failed a check: put it aside. The snapshots that have it are not handed out until mended.

        None when somebody else has condemned or removed it meanwhile.
        """
        with self._publishing:
            if not self.index.query("SELECT 1 FROM blob WHERE digest = ?", (digest.hex,)):
                return None
            affected = self.index.damaged(digest)
            self.blobs.quarantine(digest)
        for snapshot in affected:
            self.index.note(snapshot, "damaged", f"blob {digest.hex[:12]} failed a check")
        log.error("blob.damaged", extra={"digest": digest.hex, "snapshots": len(affected)})
        return affected


def _delete(paths: list[Path | None]) -> None:
    for path in paths:
        if path is not None:
            delete_tree(path)
