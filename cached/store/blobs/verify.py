"""Whether a published blob still is what it was: its pieces at memory speed, its sha256 where that is in doubt."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace

import xxhash

from cached.model import PIECE_BYTES, Digest
from cached.store.blobs.quiet_reader import QuietReader
from cached.store.disk import disk_errors

# What the disk says of a file that it cannot give back; ELOOP is a symbolic link where the file was.
_UNREADABLE = (errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODATA, errno.EREMOTEIO, errno.ELOOP)


@dataclass(frozen=True, slots=True)
class Checkup:
    """What a check found. `problem` is None when all is right; then `pieces` and `mtime_ns` are the blob's own.

    `bad` are the pieces known to be damaged: when there is a problem and none is named, any may be. `seen` is the file
    that was looked at, see `identity`: another may lie there by now.
    """

    problem: str | None
    bad: tuple[int, ...] = ()
    pieces: bytes = b""
    mtime_ns: int = 0
    hashed: bool = False
    seen: tuple[int, int] | None = None


def identity(path: str) -> tuple[int, int] | None:
    """Inode and st_mtime_ns of what lies there; None when nothing does."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def check(
    path: str, digest: Digest, size: int, pieces: bytes | None, deep: bool, pace: Callable[[int], None] | None = None
) -> Checkup:
    """Read the blob; `deep`: its sha256, all from the disk. `pace` hears of bytes as they are read, and may wait.

    A blob is never called damaged while its sha256 is right: then it was the stored checksums that were wrong. Nor when
    it was the process that ran out of something: StoreDegraded.
    """
    with disk_errors(f"checking {digest.hex[:12]}"):
        seen = identity(path)
        try:
            try:
                found = _check(path, digest, size, pieces, deep, pace)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                found = _check(path, digest, size, pieces, deep, pace)  # Once more: cables fail too, and come back.
            return replace(found, seen=seen)
        except FileNotFoundError:
            return Checkup("missing", seen=seen)
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            return Checkup(f"unreadable: {error.strerror}", seen=seen)


def _check(
    path: str, digest: Digest, size: int, pieces: bytes | None, deep: bool, pace: Callable[[int], None] | None
) -> Checkup:
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode):
        return Checkup("not a regular file")
    if status.st_size != size:
        return Checkup(f"{status.st_size} bytes instead of {size}")
    if not status.st_mode & stat.S_IRUSR:
        os.chmod(path, 0o444)  # Somebody took the right to read it away; its bytes may be as they were.
    known = pieces if pieces and len(pieces) == 16 * -(-size // PIECE_BYTES) else None
    found = _read(path, size, deep or known is None, deep, pace)
    if found.sha256 is None and found.pieces != known:
        found = _read(path, size, True, deep, pace)
    if found.sha256 is None or found.sha256 == digest.hex:
        return Checkup(None, (), found.pieces, found.mtime_ns, found.sha256 is not None)
    bad = _differing(found.pieces, known) if known else ()
    return Checkup(f"damaged pieces {_listed(bad)}" if bad else "wrong sha256", bad)


@dataclass(frozen=True, slots=True)
class _Found:
    sha256: str | None
    pieces: bytes
    mtime_ns: int


def _read(path: str, size: int, hashed: bool, direct: bool, pace: Callable[[int], None] | None) -> _Found:
    whole = hashlib.sha256() if hashed else None
    pieces: list[bytes] = []
    piece, filled = xxhash.xxh3_128(), 0
    reader = QuietReader(path, direct)
    try:
        mtime_ns = reader.status.st_mtime_ns
        for block in reader.blocks(size):  # Blocks never straddle pieces.
            piece.update(block)
            if whole is not None:
                whole.update(block)
            filled += len(block)
            if filled == PIECE_BYTES:
                pieces.append(piece.digest())
                piece, filled = xxhash.xxh3_128(), 0
            if pace is not None:
                pace(len(block))
    finally:
        reader.close()
    if filled:
        pieces.append(piece.digest())
    return _Found(whole.hexdigest() if whole else None, b"".join(pieces), mtime_ns)


def _differing(found: bytes, known: bytes) -> tuple[int, ...]:
    starts = range(0, len(known), 16)
    return tuple(number for number, at in enumerate(starts) if found[at : at + 16] != known[at : at + 16])


def _listed(bad: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, bad[:8]))
    return f"{shown} and {len(bad) - 8} more" if len(bad) > 8 else shown
