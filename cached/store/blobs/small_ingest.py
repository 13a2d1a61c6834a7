"""A file of one piece: complete and checked in memory before the first byte is written."""

from __future__ import annotations

import contextlib
import os

import xxhash

from cached.model import Entry
from cached.store.blobs.hashers import Checks
from cached.store.blobs.ingest import Verified, open_part
from cached.store.blobs.piece_writer import make_durable, write_all
from cached.store.disk import disk_errors


class SmallIngest:
    """A file that is written, and not durable until `sync`. It cannot be resumed."""

    def __init__(self, part: str, entry: Entry, data: memoryview) -> None:
        """Check `data` and write it. Raise DigestMismatch, with nothing written, when it is not what the source
        promised."""
        checks = Checks(entry.size, entry.digest, entry.checksums)
        checks.update(data)
        pieces = xxhash.xxh3_128_digest(data) if entry.size else b""
        self._part, self._name = part, entry.path
        self._verified = Verified(checks.finish(entry.path), entry.size, pieces)
        with disk_errors(f"writing {entry.path}"):
            self._fd = open_part(part, os.O_WRONLY | os.O_TRUNC)
            try:
                write_all(self._fd, data, 0)
            except BaseException:
                self._discard()
                raise

    def sync(self) -> Verified:
        """Make the file durable, close it, and return what was verified. If the fsync fails, raise StoreDegraded and
        delete the file."""
        try:
            make_durable(self._fd, self._name)
        except BaseException:
            self._discard()
            raise
        self.close()
        return self._verified

    def close(self) -> None:
        """Close the file. After `sync` has returned this changes nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with disk_errors(f"closing {self._name}"):
                os.close(fd)

    def _discard(self) -> None:
        self.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._part)
