"""Verified bytes, named by their digest. The file is under its name only once it is whole, checked and durable."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import xxhash

from cached.errors import InvalidRequest
from cached.model import PIECE_BYTES, Digest, Entry
from cached.store.ingest import Ingest, Verified
from cached.store.layout import Layout, disk_errors, fsync_directory
from cached.store.small import SmallIngest


def ingest_key(identity: str, digest: Digest | None) -> str:
    """What a download is called: its digest if known, so that any source may resume it, else its one identity."""
    return digest.hex if digest else hashlib.sha256(identity.encode()).hexdigest()


class Blobs:
    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._root, self._ingests = str(layout.blobs), str(layout.ingest)

    def path(self, digest: Digest) -> Path:
        return self._layout.blob(digest)

    def size(self, digest: Digest) -> int | None:
        """Bytes of the published file; None when there is none, or something else lies there."""
        try:
            status = os.lstat(self._name(digest))
        except OSError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def ingest(self, key: str, entry: Entry) -> Ingest:
        return Ingest(self._part(key), entry)

    def small_ingest(self, key: str, entry: Entry, data: memoryview) -> SmallIngest:
        return SmallIngest(f"{self._ingests}/{key}.part", entry, data)

    def publish(self, key: str, verified: Verified) -> None:
        """Give verified bytes their name; it is durable after `sync`.

        Nobody may have the ingest open: a file that is written to under its published name is an alarm. The caller
        excludes a concurrent removal of the same digest.
        """
        digest = verified.digest
        with disk_errors(f"publishing {digest.hex[:12]}"):
            if self.size(digest) == verified.size:
                self.discard_part(key)  # The same content came under another name; its links share the older inode.
                return
            os.rename(self._part(key), self._name(digest))
            if verified.size > PIECE_BYTES:  # The piece state has done its work.
                with contextlib.suppress(FileNotFoundError):
                    self._part(key).with_suffix(".pieces").unlink()

    def sync(self, digests: Iterable[Digest]) -> None:
        """Make the names of published blobs durable."""
        for prefix in {digest.hex[:2] for digest in digests}:
            fsync_directory(self._layout.blobs / prefix)

    def _name(self, digest: Digest) -> str:
        """As text: a model of thousands of files asks for thousands."""
        return f"{self._root}/{digest.hex[:2]}/{digest.hex}"

    def _part(self, key: str) -> Path:
        return self._layout.ingest / f"{key}.part"

    def remove(self, digest: Digest) -> Path | None:
        """Take the blob out of sight; returns what to unlink afterwards."""
        return self._move(self.path(digest), self._layout.trash)

    def quarantine(self, digest: Digest) -> Path | None:
        """Put a damaged blob aside for the operator to look at."""
        return self._move(self.path(digest), self._layout.quarantine)

    def _move(self, path: Path, folder: Path) -> Path | None:
        target = folder / f"{path.name}.{secrets.token_hex(4)}"
        with disk_errors(f"removing {path.name[:12]}"), contextlib.suppress(FileNotFoundError):
            os.rename(path, target)
            return target
        return None

    def parts(self) -> dict[str, int]:
        """Unfinished ingests: bytes on disk by key."""
        return {path.stem: path.stat().st_blocks * 512 for path in self._layout.ingest.glob("*.part")}

    def discard_part(self, key: str) -> None:
        for suffix in ("part", "pieces"):
            with contextlib.suppress(FileNotFoundError):
                (self._layout.ingest / f"{key}.{suffix}").unlink()

    def digests(self) -> Iterator[Digest]:
        """Every well-formed name under blobs/, whether or not the index knows it."""
        for folder in self._layout.blobs.iterdir():
            for path in folder.iterdir() if folder.is_dir() and not folder.is_symlink() else ():
                with contextlib.suppress(InvalidRequest):
                    if len(path.name) == 64 and path.name.startswith(folder.name):
                        yield Digest(path.name)

    def damage(self, digest: Digest, size: int, pieces: bytes | None, deep: bool) -> str | None:
        """What is wrong with the blob, in a few words; None when every piece (deep: the sha256) is right."""
        found = self.size(digest)
        if found is None:
            return "missing"
        if found != size:
            return f"{found} bytes instead of {size}"
        if deep or not pieces:
            with self.path(digest).open("rb") as file:
                return None if hashlib.file_digest(file, "sha256").hexdigest() == digest.hex else "wrong sha256"
        bad = [index for index, good in enumerate(self._compare(digest, pieces)) if not good]
        return f"damaged pieces {', '.join(map(str, bad[:8]))}" if bad else None

    def _compare(self, digest: Digest, pieces: bytes) -> Iterator[bool]:
        with self.path(digest).open("rb", buffering=0) as file:
            for start in range(0, len(pieces), 16):
                data = file.read(PIECE_BYTES)
                yield xxhash.xxh3_128_digest(data) == pieces[start : start + 16]
