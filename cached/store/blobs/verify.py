"""Check that a published blob is unchanged: its pieces at memory speed, its sha256 where they leave a doubt."""

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

# Errors for a file that the disk cannot return; ELOOP is a symbolic link in the file's place.
_UNREADABLE = (errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODATA, errno.EREMOTEIO, errno.ELOOP)


@dataclass(frozen=True, slots=True)
class Checkup:
    """The result of a check. `problem` is None when the blob is right; then `pieces` and `mtime_ns` are the blob's own.

    `bad` lists the pieces known to be damaged: when there is a problem and `bad` is empty, any may be. `seen`
    identifies the file that was checked, see `identity`: another may have its name by now.
    """

    problem: str | None
    bad: tuple[int, ...] = ()
    pieces: bytes = b""
    mtime_ns: int = 0
    hashed: bool = False
    seen: tuple[int, int] | None = None


def identity(path: str) -> tuple[int, int] | None:
    """Return inode and st_mtime_ns of the file at `path`; None when there is none."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def check(
    path: str, digest: Digest, size: int, pieces: bytes | None, deep: bool, pace: Callable[[int], None] | None = None
) -> Checkup:
    """Read the blob and check it; with `deep`, check its sha256 and read all of it from the disk. `pace` is called with
    the number of bytes as they are read, and may wait.

    A blob is never reported as damaged while its sha256 is right: then the stored checksums were wrong. Nor is it when
    the process ran out of a resource: that raises StoreDegraded.
    """
    with disk_errors(f"checking {digest.hex[:12]}"):
        seen = identity(path)
        try:
            try:
                found = _check(path, digest, size, pieces, deep, pace)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                found = _check(path, digest, size, pieces, deep, pace)  # Try again: cables fail too, and recover.
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
        os.chmod(path, 0o444)  # Somebody removed the permission to read it; its bytes may be unchanged.
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
