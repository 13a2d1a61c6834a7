"""A blob that another root of this node has, read like a remote file: what comes is checked like everything."""

from __future__ import annotations

import os
from pathlib import Path

from cached.errors import SourceUnavailable


class BlobReader:
    """See `sources.source.Reader`. It holds the file open, so that an eviction there does not matter."""

    def __init__(self, path: Path) -> None:
        """SourceUnavailable when it has gone; the next try then asks the remote."""
        self._name = path.name[:12]
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._unavailable(error) from error

    @property
    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def read(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            raise self._unavailable(error) from error

    def recheck(self, resumed: bool = False) -> None:
        """Nothing to ask: the digest decides."""

    def close(self) -> None:
        os.close(self._fd)

    def _unavailable(self, error: OSError) -> SourceUnavailable:
        return SourceUnavailable(f"The copy of {self._name} on another root cannot be read: {error.strerror}.")
