"""The checks that run over a file in order: sha256 always, and what else its source published."""

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
    """CRC-32C (RFC 3720) with hashlib's face."""

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
    if algorithm == "git-sha1":  # What git calls a blob: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    if algorithm == "md5":
        return hashlib.md5(usedforsecurity=False)
    if algorithm == "crc32c":
        return _Crc32c()
    raise ValueError(algorithm)


class Checks:
    """Fed a file's bytes in order; at the end says its Digest or that it is not what was promised."""

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
        """One that goes on from here by itself."""
        twin = Checks.__new__(Checks)
        twin._digest, twin._sha256 = self._digest, self._sha256.copy()
        twin._others = [(checksum, running.copy()) for checksum, running in self._others]
        return twin

    def finish(self, name: str) -> Digest:
        """DigestMismatch when any promise is broken."""
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
    """A checksum as Google and Amazon write it: big-endian bytes in base64."""
    return Checksum(algorithm, base64.b64decode(text).hex())
