"""What is taken of a root, and what may be."""

from __future__ import annotations

import os
from dataclasses import dataclass

from cached.config import Config
from cached.store.blobs import Blobs
from cached.store.index import Index
from cached.store.layout import Layout, disk_errors
from cached.store.quarantine import Quarantine

SPARE = 64 << 20  # Bytes of the index, and of what snapshots take beside their blobs, that are nobody's concern.
A_SNAPSHOT, A_FILE = 8 << 10, 256  # What a snapshot takes: its directory and manifest, and in these each file.


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes. `limit` is what blobs and reservations may take right now; what is in quarantine is taken off it, and what
    the index and the directories of snapshots have beyond what any node needs.

    `reserved` is set aside for downloads, of which `landed` lies on the disk already.
    """

    limit: int
    used: int
    reserved: int
    free: int
    quarantined: int
    landed: int


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
        beside = max(0, _beside(layout, index) - SPARE)
    free = system.f_bavail * system.f_frsize
    configured = int(config.limit) or system.f_blocks * system.f_frsize * 9 // 10
    limit = min(configured - aside - beside, row["used"] + parts + free - int(config.keep_free))
    return Usage(max(0, limit), row["used"], row["reserved"], free, aside, parts)


def _beside(layout: Layout, index: Index) -> int:
    """Bytes of the root that are no blobs: the index, its log, and the snapshots' directories and manifests."""
    row = index.query("SELECT count(*) AS snapshots, coalesce(sum(files), 0) AS files FROM snapshot")[0]
    own = sum(_size(f"{layout.index}{suffix}") for suffix in ("", "-wal", "-shm"))
    return own + int(row["snapshots"]) * A_SNAPSHOT + int(row["files"]) * A_FILE


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
