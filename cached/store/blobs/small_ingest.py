"""A file of one piece on its way in: whole and checked in memory before the first byte is written."""

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
    """Written, and not yet durable. There is nothing to resume."""

    def __init__(self, part: str, entry: Entry, data: memoryview) -> None:
        """DigestMismatch when `data` is not what the source promised; nothing was written then."""
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
        """Make it durable, and close it. A failed fsync is StoreDegraded, and the file is gone."""
        try:
            make_durable(self._fd, self._name)
        except BaseException:
            self._discard()
            raise
        self.close()
        return self._verified

    def close(self) -> None:
        """Nothing more is done with it. Once `sync` has returned this changes nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with disk_errors(f"closing {self._name}"):
                os.close(fd)

    def _discard(self) -> None:
        self.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._part)
