"""At start-up: make the disk and the index agree, with nobody else running. The disk is right; the index follows."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from dataclasses import dataclass

from cached.errors import InvalidRequest
from cached.model import Digest, Manifest
from cached.store.blobs import Blobs
from cached.store.index import Index
from cached.store.layout import Layout, disk_errors
from cached.store.leases import exclusive
from cached.store.snapshots import Origin, Snapshots, delete_tree

log = logging.getLogger("cached.store")

PARKED_SECONDS = 24 * 3600.0  # Partial downloads that nobody has asked for again since are given up.


@dataclass(slots=True)
class Recovered:
    """What start-up found and did: counts, for the log."""

    snapshots_restored: int = 0
    snapshots_removed: int = 0
    blobs_forgotten: int = 0
    strays_removed: int = 0
    parts_kept: int = 0


def open_index(layout: Layout) -> Index:
    """The index, or a new one where it is lost or damaged; a damaged file is kept in quarantine."""
    if not layout.index.exists() and any(layout.snapshots.iterdir()):
        log.warning("index.lost", extra={"path": str(layout.index)})
    try:
        return Index(layout.index)
    except sqlite3.DatabaseError as error:
        log.error("index.damaged", extra={"reason": str(error)})
        stamp = time.strftime("%Y%m%dT%H%M%S")
        with disk_errors("putting the damaged index aside"):
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(f"{layout.index}{suffix}", layout.quarantine / f"index.db.{stamp}{suffix}")
        return Index(layout.index)


def reconcile(layout: Layout, index: Index, blobs: Blobs, snapshots: Snapshots) -> Recovered:
    """Converge without the network and without reading file contents. Safe to be killed in, and to run again."""
    done = Recovered()
    with disk_errors("cleaning up at start-up"):
        for path in layout.trash.iterdir():
            delete_tree(path)
            done.strays_removed += 1
        _forget_fills(index)
        on_disk = _snapshots_on_disk(layout, snapshots, done)
        _finish_removals(index, snapshots, on_disk, done)
        _forget_lost(index, blobs, on_disk, done)
        _restore(index, on_disk, done)
        _remove_strays(layout, index, blobs, done)
    log.info("store.reconciled", extra={slot: getattr(done, slot) for slot in Recovered.__slots__})
    return done


def _forget_fills(index: Index) -> None:
    with index.transaction() as db:
        db.execute("DELETE FROM fill")


def _snapshots_on_disk(layout: Layout, snapshots: Snapshots, done: Recovered) -> dict[Digest, tuple[Manifest, Origin]]:
    """Snapshots whose manifest and directory agree; the rest loses its name, unless somebody holds it."""
    found: dict[Digest, tuple[Manifest, Origin]] = {}
    for name in snapshots.names():
        try:
            digest = Digest(name.removesuffix(".json"))
        except InvalidRequest:
            _trash(layout, name)
            done.strays_removed += 1
            continue
        if digest in found:
            continue
        read = snapshots.read(digest)
        if read is not None and snapshots.intact(read[0]):
            found[digest] = read
        else:
            with exclusive(snapshots.lock(digest)) as free:
                if free and (gone := snapshots.remove(digest)):
                    delete_tree(gone)
                    done.snapshots_removed += 1
    return found


def _trash(layout: Layout, name: str) -> None:
    log.warning("store.stray", extra={"stray": name[:80]})
    target = layout.trash / f"stray.{time.monotonic_ns()}"
    os.rename(layout.snapshots / name, target)
    delete_tree(target)


def _finish_removals(
    index: Index, snapshots: Snapshots, on_disk: dict[Digest, tuple[Manifest, Origin]], done: Recovered
) -> None:
    """EVICTING rows: a crash came between the choice and the removal."""
    for row in index.query("SELECT digest FROM snapshot WHERE state = 'evicting'"):
        digest = Digest(row["digest"])
        with exclusive(snapshots.lock(digest)) as free:
            if not free:  # Its holder came before the crash did; it is whole, so it stays.
                with index.transaction() as db:
                    db.execute("UPDATE snapshot SET state = 'ready' WHERE digest = ?", (digest.hex,))
                continue
            index.forget(digest)
            on_disk.pop(digest, None)
            if gone := snapshots.remove(digest):
                delete_tree(gone)
            done.snapshots_removed += 1


def _forget_lost(index: Index, blobs: Blobs, on_disk: dict[Digest, tuple[Manifest, Origin]], done: Recovered) -> None:
    """Rows without their files."""
    for row in index.query("SELECT digest FROM snapshot"):
        if Digest(row["digest"]) not in on_disk:
            index.forget(Digest(row["digest"]))
    for row in index.query("SELECT digest, size FROM blob"):
        if blobs.size(Digest(row["digest"])) != row["size"]:
            index.damaged(Digest(row["digest"]))
            done.blobs_forgotten += 1


def _restore(index: Index, on_disk: dict[Digest, tuple[Manifest, Origin]], done: Recovered) -> None:
    """Files without their rows: what a lost index knew."""
    rows = {row["digest"] for row in index.query("SELECT digest FROM snapshot")}
    for digest, (manifest, origin) in on_disk.items():
        if digest.hex in rows:
            continue
        with index.transaction() as db:
            db.executemany(
                "INSERT OR IGNORE INTO blob VALUES (?, ?, NULL, ?)",
                [(blob.hex, size, time.time()) for blob, size in manifest.blobs.items()],
            )
            index.commit(manifest, origin, {origin.ref: (origin.source, origin.revision)}, None)
            # Known, but not known to be current: a moving name is asked again before it is believed.
            db.execute("UPDATE resolution SET checked_at = 0 WHERE snapshot = ?", (digest.hex,))
        done.snapshots_restored += 1


def _remove_strays(layout: Layout, index: Index, blobs: Blobs, done: Recovered) -> None:
    """Files that no row accounts for, and partial downloads without a reservation, or grown old."""
    index.forget_orphans()
    known = {row["digest"] for row in index.query("SELECT digest FROM blob")}
    for digest in list(blobs.digests()):
        if digest.hex not in known and (gone := blobs.remove(digest)):
            delete_tree(gone)
            done.strays_removed += 1
    fresh = {
        row["key"]
        for row in index.query("SELECT key FROM reservation WHERE created_at > ?", (time.time() - PARKED_SECONDS,))
    }
    parts = set(blobs.parts())
    for path in layout.ingest.iterdir():
        if path.suffix not in (".part", ".pieces") or path.stem not in fresh & parts:
            delete_tree(path)
            done.strays_removed += 1
    done.parts_kept = len(fresh & parts)
    for row in index.query("SELECT key FROM reservation"):
        if row["key"] not in fresh & parts:
            index.forget_parked(row["key"])
