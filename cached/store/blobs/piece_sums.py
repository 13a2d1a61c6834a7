"""The sidecar of a large blob: the XXH3-128 of its pieces, so that after the loss of the index it need not be read
again.

It is only a claim: it is trusted only if it is complete and the blob has not been written to since.
"""

from __future__ import annotations

import os
import struct

import xxhash

_MAGIC = b"CPIECES1"
_HEAD = struct.Struct("<8sQQ")  # Magic, bytes of the blob, its st_mtime_ns.
_SUM = 16


def write(path: str, size: int, mtime_ns: int, pieces: bytes) -> None:
    """Write the sidecar, not durably: a torn one is ignored, which costs one reading of the blob and nothing else."""
    body = _HEAD.pack(_MAGIC, size, mtime_ns) + pieces
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, body + xxhash.xxh3_128_digest(body))
    finally:
        os.close(fd)


def read(path: str, size: int, mtime_ns: int) -> bytes | None:
    """Return the checksums of the pieces, 16 bytes apiece; None unless they were written for this size (bytes) and
    st_mtime_ns."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with open(fd, "rb") as file:
        data = file.read()
    body, checksum = data[:-_SUM], data[-_SUM:]
    if len(body) < _HEAD.size or xxhash.xxh3_128_digest(body) != checksum:
        return None
    return body[_HEAD.size :] if _HEAD.unpack_from(body) == (_MAGIC, size, mtime_ns) else None
