"""The space that is used on a root, and the space that may be used."""

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
    """The space of a root, in bytes. `limit` is the space that blobs and reservations may take right now. The
    quarantine is already taken off it, and so is what the index and the directories of snapshots have beyond the needs
    of any node; for the directories that is the excess of `overhead`.

    `reserved` bytes are set aside for downloads; `landed` bytes of these are on the disk already.
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
        """Bytes that are neither used nor set aside; negative when more is used and set aside than `limit`."""
        return self.limit - self.used - self.reserved


def look(layout: Layout, config: Config, index: Index, blobs: Blobs, quarantine: Quarantine) -> Usage:
    """Return the usage of the root. Its limit takes the real free space of the file system into account."""
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
    """Return the overhead (the bytes taken beside blobs, and those that the `own` bytes of the index leave to spare for
    them), and the bytes of the index in use for anything but the files of snapshots."""
    row = index.query(
        "SELECT count(*) AS snapshots, coalesce(sum(files), 0) AS files, "
        "(SELECT coalesce(sum(overhead), 0) FROM fill) AS coming, "
        "(SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size) AS unused FROM snapshot"
    )[0]
    alone = max(0, own - row["unused"] - row["files"] * overhead.IN_INDEX)
    taken = overhead.of(row["files"], row["snapshots"]) + row["coming"]
    return Overhead(taken, max(0, overhead.SPARE - alone), overhead.SPARE // overhead.FREE), alone


def index_bytes(layout: Layout) -> int:
    """Return the bytes of the index, with its log."""
    return sum(_size(f"{layout.index}{suffix}") for suffix in ("", "-wal", "-shm"))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
