"""Verified bytes, named by their digest. A file gets its name only once it is complete, checked and durable."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from cached.model import PIECE_BYTES, Digest, Entry
from cached.store.blobs import piece_sums, salvage
from cached.store.blobs.ingest import Ingest, Verified
from cached.store.blobs.small_ingest import SmallIngest
from cached.store.disk import disk_errors, fsync_directory
from cached.store.layout import Layout


def ingest_key(identity: str, digest: Digest | None) -> str:
    """Return the name of a download: its digest if known, so that any source may resume it, else a hash of its one
    identity."""
    return digest.hex if digest else hashlib.sha256(identity.encode()).hexdigest()


class Blobs:
    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._root, self._ingests = str(layout.blobs), str(layout.ingest)

    def path(self, digest: Digest) -> Path:
        return self._layout.blob(digest)

    def size(self, digest: Digest) -> int | None:
        """Return the size in bytes of the published file; None when there is none, or it is not a regular file."""
        status = self.status(digest)
        return None if status is None else status.st_size

    def status(self, digest: Digest) -> os.stat_result | None:
        """Return the status of the published file; None when there is none, or it is not a regular file."""
        try:
            status = os.lstat(self._name(digest))
        except OSError:
            return None
        return status if stat.S_ISREG(status.st_mode) else None

    def taken(self, digest: Digest) -> bool:
        """Return whether anything at all exists under the blob's name."""
        return os.path.lexists(self._name(digest))

    def ingest(self, key: str, entry: Entry, expected: Digest | None = None) -> Ingest:
        """Begin or resume a download. `expected` is the digest of a damaged blob that it is to replace: the good pieces
        of that blob are reused, and nothing else can be published."""
        part = self._part(key)
        if expected is not None:
            entry = replace(entry, digest=expected)
            if not part.exists():
                with disk_errors(f"taking over what is left of {entry.path}"):
                    salvage.take_over(self._layout.quarantine, expected, part, entry.size)
        return Ingest(part, entry)

    def small_ingest(self, key: str, entry: Entry, data: memoryview) -> SmallIngest:
        return SmallIngest(f"{self._ingests}/{key}.part", entry, data)

    def publish(self, key: str, verified: Verified) -> int:
        """Rename verified bytes to their published name, which is durable after `sync`. Return the file's st_mtime_ns.

        No process may have the ingest open: a write to a file under its published name raises an alarm. The caller
        excludes a concurrent removal of the same digest.
        """
        digest, name = verified.digest, self._name(verified.digest)
        with disk_errors(f"publishing {digest.hex[:12]}"):
            there = self.status(digest)
            if there is not None and there.st_size == verified.size:
                self.discard_part(key)  # Published already, from another file; its links share the older inode.
                return there.st_mtime_ns
            os.rename(f"{self._ingests}/{key}.part", name)
            mtime_ns = os.lstat(name).st_mtime_ns
            if verified.size > PIECE_BYTES:
                with contextlib.suppress(OSError):  # Without it only a lost index costs more.
                    piece_sums.write(_beside(name), verified.size, mtime_ns, verified.pieces)
                with contextlib.suppress(FileNotFoundError):  # The piece state is not needed any more.
                    self._part(key).with_suffix(".pieces").unlink()
            return mtime_ns

    def sync(self, digests: Iterable[Digest]) -> None:
        """Make the names of published blobs durable."""
        for prefix in {digest.hex[:2] for digest in digests}:
            fsync_directory(f"{self._root}/{prefix}")

    def _name(self, digest: Digest) -> str:
        """Return the path as a string: a model of thousands of files needs thousands."""
        return f"{self._root}/{digest.hex[:2]}/{digest.hex}"

    def _part(self, key: str) -> Path:
        return self._layout.ingest / f"{key}.part"

    def remove(self, digest: Digest) -> Path | None:
        """Move the blob into the trash, where it is no longer visible. Return the path to unlink afterwards; None if
        there was no blob."""
        target = self._layout.trash / f"{digest.hex}.{secrets.token_hex(4)}"
        with disk_errors(f"removing {digest.hex[:12]}"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_beside(self._name(digest)))
            with contextlib.suppress(FileNotFoundError):
                os.rename(self._name(digest), target)
                return target
        return None

    def quarantine(self, digest: Digest, size: int, pieces: bytes | None, bad: Iterable[int]) -> None:
        """Quarantine a damaged blob, for the operator to inspect, and so that its good pieces need not be fetched
        again."""
        name = self._name(digest)
        target = f"{self._layout.quarantine}/{digest.hex}.{secrets.token_hex(4)}"
        with disk_errors(f"putting {digest.hex[:12]} aside"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_beside(name))
            with contextlib.suppress(FileNotFoundError):
                os.rename(name, target)
                salvage.note(target, size, pieces, bad)

    def known_pieces(self, digest: Digest, size: int, mtime_ns: int) -> bytes | None:
        """Return the piece checksums in the blob's sidecar; None unless it describes a file of this size (bytes) and
        st_mtime_ns."""
        return piece_sums.read(_beside(self._name(digest)), size, mtime_ns)

    def parts(self) -> dict[str, int]:
        """Return the bytes on the disk of each unfinished ingest, by key."""
        found: dict[str, int] = {}
        for path in self._layout.ingest.glob("*.part"):
            with contextlib.suppress(FileNotFoundError):  # Published or discarded since it was listed.
                found[path.stem] = path.stat().st_blocks * 512
        return found

    def discard_part(self, key: str) -> None:
        for suffix in ("part", "pieces"):
            with contextlib.suppress(FileNotFoundError):
                (self._layout.ingest / f"{key}.{suffix}").unlink()


def _beside(name: str) -> str:
    return f"{name}.pieces"
