"""Make the disk and the index agree at start-up, while nothing else runs. The disk is right; the index follows."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from cached.model import PIECE_BYTES, Digest
from cached.store.blobs.blobs import Blobs
from cached.store.disk import disk_errors
from cached.store.index import carry_over, row_seals
from cached.store.index.index import Index
from cached.store.index.query_strings import hide_in_origin
from cached.store.layout import Layout
from cached.store.private import exposed
from cached.store.snapshots.acl import close
from cached.store.snapshots.leases import Leases
from cached.store.snapshots.locks import booted
from cached.store.snapshots.snapshots import Snapshots
from cached.store.startup import clock_skew
from cached.store.startup.blob_scan import Census
from cached.store.startup.changed_blobs import Recheck
from cached.store.startup.index_sync import Following, Found
from cached.store.startup.manifest_scan import Glance, glance
from cached.store.startup.repair import MakingWhole
from cached.store.startup.report import Recovered
from cached.store.startup.strays import Strays

log = logging.getLogger("cached.store")

PARKED_SECONDS = 24 * 3600.0  # Age at which partial downloads that were not requested again are deleted.

_OURS = re.compile(r"FORMAT|index\.db(-wal|-shm|-journal)?|blobs|snapshots|ingest|trash|quarantine|lost\+found")
_DEBRIS = re.compile(r"FORMAT\.([0-9]+|next)")  # Left by a first start that was killed.
_DIGEST = re.compile(r"[0-9a-f]{64}")
_UNFINISHED = (".part", ".pieces", ".fresh", ".tree", ".manifest", ".lock")  # Left in ingest/ by a crash.


def reconcile(
    layout: Layout,
    index: Index,
    blobs: Blobs,
    snapshots: Snapshots,
    leases: Leases,
    state: str = "kept",
    damaged: Path | None = None,
) -> Recovered:
    """Make the disk and the index agree, without the network, and without reading files that nothing has written to.
    Return the counts of what was done.

    `state` says how the index was opened, and `damaged` is the index file that it replaces, if any. A start may be
    killed here and run again; a further run finds nothing to do.
    """
    began = time.monotonic()
    done = Recovered(index=state)
    strays = Strays(layout, done)
    with disk_errors("cleaning up at start-up"):
        _sweep(layout, strays)
        correct(index, done)
        census = Census(layout, strays)
        Recheck(index, blobs, census, done).run()
        _Start(layout, index, blobs, snapshots, leases, census, strays, done).run()
        if damaged is not None:
            done.pins_inherited = carry_over.inherit(index, damaged)
    done.seconds = round(time.monotonic() - began, 3)
    log.info("store.reconciled", extra=done.as_dict())
    return done


def correct(index: Index, done: Recovered) -> None:
    """Drop rows of processes that are gone and rows with a broken seal, and clamp impossible times."""
    _forget_runs(index)
    with index.transaction() as db:
        done.rows_dropped = row_seals.drop_broken(db)
    done.times_corrected = clock_skew.set_back(index, time.time())


def _sweep(layout: Layout, strays: Strays) -> None:
    """Empty the trash, delete the leftovers of killed starts, and report foreign names in the root."""
    for entry in list(os.scandir(layout.trash)):
        strays.sweep(entry.path)
    for entry in list(os.scandir(layout.root)):
        if _DEBRIS.fullmatch(entry.name):
            strays.sweep(entry.path)
        elif not _OURS.fullmatch(entry.name):
            strays.leave(entry.path)


def _forget_runs(index: Index) -> None:
    """Delete the rows of processes that are gone: all fills, and descriptions of leases."""
    with index.transaction() as db:
        db.execute("DELETE FROM fill")
        pids = [row["pid"] for row in db.execute("SELECT DISTINCT pid FROM lease")]
        db.executemany("DELETE FROM lease WHERE pid = ?", [(p,) for p in pids if not os.path.exists(f"/proc/{p}")])
        db.execute("DELETE FROM lease WHERE since < ?", (booted(),))


@dataclass(slots=True)
class _Start:
    layout: Layout
    index: Index
    blobs: Blobs
    snapshots: Snapshots
    leases: Leases
    census: Census
    strays: Strays
    done: Recovered

    def run(self) -> None:
        folders, manifests = self._names()
        gone = self._finish_removals()
        following = Following(self.index, self.census, self.blobs, self._written, self.done)
        whole = MakingWhole(self.snapshots, self.blobs, self.census, self.done)
        troubled: list[Digest] = []
        for name in sorted((folders | manifests) - gone):
            digest = Digest(name)
            manifest = self._read(digest, whole, following)
            if manifest is None:
                self._remove(digest, following)
            elif name not in folders and self.done.index == "kept" and not following.knows(name):
                self._remove(digest, following)  # A removal that a crash interrupted after it had dropped the row.
            elif whole.sound(digest, manifest):
                following.follow(Found(name, manifest))
                self.done.snapshots += 1
            else:
                troubled.append(digest)
        self._make_whole(troubled, whole, following)
        following.close()
        self._remove_strays()

    def _read(self, digest: Digest, whole: MakingWhole, following: Following) -> Glance | None:
        """Return the snapshot's manifest; if it is unreadable, rewrite it from the directory. Return None when the
        directory does not prove it."""
        found = glance(f"{self.layout.snapshots}/{digest.hex}.json", digest.hex)
        if found is not None:
            return self._without_query(digest, found)
        read = self.snapshots.read(digest)
        if read is None and (origin := following.origin(digest.hex)):
            manifest = whole.manifest(digest, origin)
            read = (manifest, origin) if manifest else None
        return Glance.of(*read) if read else None

    def _without_query(self, digest: Digest, found: Glance) -> Glance:
        origin = hide_in_origin(found.origin)
        read = self.snapshots.read(digest) if origin != found.origin else None
        if read is None:
            return found
        self.snapshots.rewrite(read[0], origin)
        return Glance.of(read[0], origin)

    def _finish_removals(self) -> set[str]:
        """Remove the snapshots of EVICTING rows: a crash interrupted them between the choice and the removal. Return
        the hex digests of the removed snapshots; a leased one stays, READY again."""
        gone = set()
        for row in self.index.query("SELECT digest FROM snapshot WHERE state = 'evicting'"):
            digest = Digest(row["digest"])
            with self.leases.exclusive(digest) as free:
                if not free:  # It was leased before the crash, so it is complete and stays.
                    with self.index.transaction() as db:
                        db.execute("UPDATE snapshot SET state = 'ready' WHERE digest = ?", (digest.hex,))
                    continue
                self.index.forget(digest, "evicted", "a removal that a crash interrupted was finished")
                self._take_away(digest)
                gone.add(digest.hex)
        return gone

    def _names(self) -> tuple[set[str], set[str]]:
        """Return the hex digests that have a directory, and those that have a manifest. Make the manifests readable by
        the daemon alone, delete foreign names and tidy the lock files."""
        folders: set[str] = set()
        manifests: set[str] = set()
        locks: set[str] = set()
        for entry in list(os.scandir(self.layout.snapshots)):
            name = entry.name.removesuffix(".json").removesuffix(".locks")
            if not _DIGEST.fullmatch(name):
                self.strays.remove(entry.path)
            elif name == entry.name and entry.is_dir(follow_symlinks=False):
                folders.add(name)
            elif entry.name == f"{name}.locks" and entry.is_dir(follow_symlinks=False):
                locks.add(name)
            elif entry.name == f"{name}.json" and entry.is_file(follow_symlinks=False):
                manifests.add(name)
                if exposed(entry.stat(follow_symlinks=False)):
                    close(Path(entry.path), 0o400)
            else:
                self.strays.remove(entry.path)
        self._tidy_locks(locks, folders | manifests)
        return folders, manifests

    def _tidy_locks(self, locks: set[str], snapshots: set[str]) -> None:
        since = booted()
        for name in locks:
            if name in snapshots:
                for foreign in self.leases.tidy(Digest(name), since):
                    self.strays.remove(foreign)
                with contextlib.suppress(OSError):  # Fails while the folder is not empty.
                    self.layout.locks(Digest(name)).rmdir()
            else:
                self.snapshots.remove_locks(Digest(name))

    def _remove(self, digest: Digest, following: Following) -> None:
        """Remove the snapshot; while it is leased, keep it without serving it."""
        with self.leases.exclusive(digest) as free:
            if free:
                self._take_away(digest)
            else:
                following.keep(digest.hex)

    def _take_away(self, digest: Digest) -> None:
        if gone := self.snapshots.remove(digest):
            self.strays.sweep(str(gone))
            self.done.strays_removed -= 1
        self.done.snapshots_removed += 1

    def _make_whole(self, troubled: list[Digest], whole: MakingWhole, following: Following) -> None:
        """Two passes: first recover missing blobs from any snapshot that still links them, then repair each
        snapshot."""
        reads = []
        for digest in troubled:
            read = self.snapshots.read(digest)
            if read is None:  # Its manifest has hostile paths.
                self._remove(digest, following)
            else:
                reads.append((digest, read))
        for digest, (manifest, _) in reads:
            whole.regain(digest, manifest)
        for digest, (manifest, origin) in reads:
            healed, missing = whole.mend(digest, manifest, origin)
            following.follow(Found(digest.hex, Glance.of(manifest, origin), healed, missing))
            self.done.snapshots += 1
            self.done.damaged += not healed

    def _written(self, digest: str) -> int:
        return os.stat(f"{self.layout.snapshots}/{digest}.json").st_mtime_ns

    def _remove_strays(self) -> None:
        """Delete blobs without a row, and partial downloads that have no reservation or are older than
        PARKED_SECONDS."""
        self.index.forget_orphans()
        with self.index.transaction() as db:
            known = {row[0] for row in db.execute("SELECT digest FROM blob WHERE NOT damaged")}
        for blob, _ in self.census.items():
            if blob not in known and (gone := self.blobs.remove(Digest(blob))):
                self.strays.sweep(str(gone))
        self._tidy_ingests()

    def _tidy_ingests(self) -> None:
        since = time.time() - PARKED_SECONDS
        fresh = {row["key"] for row in self.index.query("SELECT key FROM reservation WHERE created_at > ?", (since,))}
        entries = list(os.scandir(self.layout.ingest))
        files = {entry.name: entry for entry in entries if entry.is_file(follow_symlinks=False)}
        # A download in pieces has its full size from the start; a smaller one cannot be resumed.
        sizes = {key: files[f"{key}.part"].stat().st_size for key in fresh if f"{key}.part" in files}
        kept = {key: size for key, size in sizes.items() if size > PIECE_BYTES}
        for entry in entries:
            name = Path(entry.name)
            if name.suffix not in _UNFINISHED:
                self.strays.remove(entry.path)
            elif name.suffix not in (".part", ".pieces") or name.stem not in kept or entry.name not in files:
                self.strays.sweep(entry.path)
        self.done.parts_kept, landed = len(kept), self.blobs.parts()
        with self.index.transaction() as db:
            for key, reserved, size in db.execute("SELECT key, bytes, size FROM reservation").fetchall():
                if key not in kept:
                    self.index.forget_parked(key)
                elif (reserved, size) != (landed.get(key, 0), kept[key]):
                    row = min(landed.get(key, 0), kept[key]), kept[key], key
                    db.execute("UPDATE reservation SET bytes = ?, size = ? WHERE key = ?", row)
