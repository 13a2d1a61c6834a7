"""Where everything lies below the root."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from cached.model import Digest

REMEMBERED = 4096  # Paths.


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
