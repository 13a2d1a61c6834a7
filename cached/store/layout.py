"""The paths of everything below the root."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from cached.model import Digest

REMEMBERED = 4096  # Paths that are cached.


class Layout:
    """Compute the paths below a root. The methods are pure functions of names; no I/O."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.format = root / "FORMAT"
        self.next_format = root / "FORMAT.next"  # Until it is renamed to FORMAT.
        self.index = root / "index.db"
        self.blobs = root / "blobs"
        self.snapshots = root / "snapshots"
        self.ingest = root / "ingest"
        self.trash = root / "trash"
        self.quarantine = root / "quarantine"
        # A hit needs three of these, and joining a path takes longer than everything else that it does with one.
        self._named = lru_cache(maxsize=REMEMBERED)(self.snapshots.joinpath)

    def blob(self, digest: Digest) -> Path:
        return self.blobs / digest.hex[:2] / digest.hex

    def snapshot(self, digest: Digest) -> Path:
        return self._named(digest.hex)

    def manifest(self, digest: Digest) -> Path:
        return self._named(f"{digest.hex}.json")

    def locks(self, digest: Digest) -> Path:
        """Return the folder of the snapshot's lock files, which has one for each user of the snapshot."""
        return self._named(f"{digest.hex}.locks")
