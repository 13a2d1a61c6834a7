"""What is taken of a root, and what may be."""

from __future__ import annotations

import os
from dataclasses import dataclass

from cached.config import Config
from cached.store import overhead
from cached.store.blobs.blobs import Blobs
from cached.store.blobs.quarantine import Quarantine
from cached.store.disk import disk_errors
from cached.store.index.index import Index
from cached.store.layout import Layout
from cached.store.overhead import NONE, Overhead


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes. `limit` is what blobs and reservations may take right now; what is in quarantine is taken off it, and what
    the index and the directories of snapshots have beyond what any node needs: the latter is the `overhead`'s excess.

    `reserved` is set aside for downloads, of which `landed` lies on the disk already.
    """

    limit: int
    used: int
    reserved: int
    free: int
    quarantined: int
    landed: int
    overhead: Overhead = NONE

    @property
    def unclaimed(self) -> int:
        """What is neither used nor set aside; below nothing when there is less than that."""
        return self.limit - self.used - self.reserved


def look(layout: Layout, config: Config, index: Index, blobs: Blobs, quarantine: Quarantine) -> Usage:
    """What is taken and what may be, the real free space of the file system included."""
    row = index.query(
        "SELECT (SELECT coalesce(sum(size), 0) FROM blob WHERE NOT damaged) AS used, "
        "(SELECT coalesce(sum(bytes), 0) FROM reservation) AS reserved"
    )[0]
    with disk_errors("looking at what is taken"):
        system = os.statvfs(layout.root)
        parts = sum(blobs.parts().values())
        aside = sum(each.bytes for each in quarantine.list())
        own = index_bytes(layout)
        beside, index_alone = look_beside(index, own)
    free = system.f_bavail * system.f_frsize
    configured = int(config.limit) or system.f_blocks * system.f_frsize * 9 // 10
    limit = min(
        configured - aside - max(0, index_alone - overhead.SPARE) - beside.excess,
        row["used"] + parts + free - int(config.keep_free),
    )
    return Usage(max(0, limit), row["used"], row["reserved"], free, aside, parts, beside)


def look_beside(index: Index, own: int) -> tuple[Overhead, int]:
    """What is taken beside blobs, and what the `own` bytes of the index leave to spare for it; bytes that the index has
    in use for anything but files of snapshots."""
    row = index.query(
        "SELECT count(*) AS snapshots, coalesce(sum(files), 0) AS files, "
        "(SELECT coalesce(sum(overhead), 0) FROM fill) AS coming, "
        "(SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size) AS unused FROM snapshot"
    )[0]
    alone = max(0, own - row["unused"] - row["files"] * overhead.IN_INDEX)
    taken = overhead.of(row["files"], row["snapshots"]) + row["coming"]
    return Overhead(taken, max(0, overhead.SPARE - alone), overhead.SPARE // overhead.FREE), alone


def index_bytes(layout: Layout) -> int:
    """With its log."""
    return sum(_size(f"{layout.index}{suffix}") for suffix in ("", "-wal", "-shm"))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
