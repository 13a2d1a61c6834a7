"""Where everything lies below the root, and what the disk's errors mean."""

from __future__ import annotations

import errno
import os
from functools import lru_cache
from pathlib import Path

from cached.errors import NoSpace, StoreDegraded
from cached.model import Digest

REMEMBERED = 4096  # Paths.
_FULL = (errno.ENOSPC, errno.EDQUOT)
# What the process ran out of, and not the disk: it passes.
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EAGAIN, errno.ENAMETOOLONG)


class disk_errors:
    """Translate what the disk says: full becomes NoSpace, everything else StoreDegraded.

    A class, because it is entered for every slice of a transfer, and a generator takes five times as long.
    """

    __slots__ = ("_doing",)

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError):
            return
        if error.errno in _FULL:
            raise NoSpace(f"The disk filled up while {self._doing}; free some space or lower `limit`.") from error
        reason = error.strerror or str(error)
        if error.errno in _PASSING:
            raise StoreDegraded(f"The store failed while {self._doing}: {reason}; check the node's limits.") from error
        failure = StoreDegraded(f"The store failed while {self._doing}: {reason}. Check the disk, then restart cached.")
        failure.lasting = True
        raise failure from error


def fsync_directory(path: Path | str) -> None:
    """Make renames in `path` durable: power loss can undo a rename whose directory was not synced."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Layout:
    """Where everything lies below a root. Pure functions of names; no I/O."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.format = root / "FORMAT"
        self.next_format = root / "FORMAT.next"  # Until it takes the place of the other.
        self.index = root / "index.db"
        self.blobs = root / "blobs"
        self.snapshots = root / "snapshots"
        self.ingest = root / "ingest"
        self.trash = root / "trash"
        self.quarantine = root / "quarantine"
        # A hit asks for three of these, and to put a path together takes longer than all else that it does with it.
        self._named = lru_cache(maxsize=REMEMBERED)(self.snapshots.joinpath)

    def blob(self, digest: Digest) -> Path:
        return self.blobs / digest.hex[:2] / digest.hex

    def snapshot(self, digest: Digest) -> Path:
        return self._named(digest.hex)

    def manifest(self, digest: Digest) -> Path:
        return self._named(f"{digest.hex}.json")

    def locks(self, digest: Digest) -> Path:
        """The folder of the snapshot's lock files: one for each user of it."""
        return self._named(f"{digest.hex}.locks")
