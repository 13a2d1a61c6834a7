"""Checks that run over a file in order: its sha256 always, and other checksums that its source published."""

from __future__ import annotations

import base64
import hashlib
from typing import Protocol, Self

import google_crc32c

from cached.errors import DigestMismatch
from cached.model import Checksum, Digest


class _Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...
    def copy(self) -> Self: ...


class _Crc32c:
    """Compute CRC-32C (RFC 3720) with the interface of hashlib."""

    def __init__(self) -> None:
        self._crc = 0

    def update(self, data: bytes | memoryview, /) -> None:
        self._crc = google_crc32c.extend(self._crc, bytes(data))

    def hexdigest(self) -> str:
        return f"{self._crc:08x}"

    def copy(self) -> Self:
        twin = type(self)()
        twin._crc = self._crc
        return twin


def _start(algorithm: str, size: int) -> _Hash:
    if algorithm == "git-sha1":  # The id of a blob in git: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    if algorithm == "md5":
        return hashlib.md5(usedforsecurity=False)
    if algorithm == "crc32c":
        return _Crc32c()
    raise ValueError(algorithm)


class Checks:
    """Check a file's bytes in order; at the end return its Digest, or raise if it is not the promised one."""

    def __init__(self, size: int, digest: Digest | None, checksums: tuple[Checksum, ...]) -> None:
        self._digest = digest
        self._sha256 = hashlib.sha256()
        # A promised sha256 is stronger than anything beside it, and each further check costs CPU.
        self._others = [] if digest else [(checksum, _start(checksum.algorithm, size)) for checksum in checksums]

    def update(self, data: bytes | memoryview) -> None:
        self._sha256.update(data)
        for _, running in self._others:
            running.update(data)

    def copy(self) -> Checks:
        """Return a copy that continues from here independently."""
        twin = Checks.__new__(Checks)
        twin._digest, twin._sha256 = self._digest, self._sha256.copy()
        twin._others = [(checksum, running.copy()) for checksum, running in self._others]
        return twin

    def finish(self, name: str) -> Digest:
        """Return the sha256 of the bytes. Raise DigestMismatch when it, or another checksum, is not the promised
        one."""
        found = Digest(self._sha256.hexdigest())
        if self._digest is not None and found != self._digest:
            raise DigestMismatch(
                f"{name} arrived as {found}, but its source promises {self._digest}; it was discarded."
            )
        for checksum, running in self._others:
            if running.hexdigest() != checksum.value:
                raise DigestMismatch(
                    f"{name} arrived with {checksum.algorithm} {running.hexdigest()}, but its source promises "
                    f"{checksum.value}; it was discarded."
                )
        return found


def from_base64(algorithm: str, text: str) -> Checksum:
    """Return a checksum from the form that Google and Amazon use: big-endian bytes in base64."""
    return Checksum(algorithm, base64.b64decode(text).hex())
