"""A blob that is not complete: preallocated, filled piece by piece, resumable, invisible until published."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from cached.errors import SizeMismatch, StoreDegraded
from cached.model import PIECE_BYTES, Digest, Entry, Plain
from cached.store.blobs.hashers import Checks
from cached.store.blobs.piece_journal import Claim, PieceState, recorded
from cached.store.blobs.piece_writer import Begun, Landing, make_durable, slices
from cached.store.disk import disk_errors

ALLOCATED = 16 * PIECE_BYTES  # Bytes that are allocated at a time.


@dataclass(frozen=True, slots=True)
class Piece:
    index: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Verified(Plain):
    """Describe the bytes of an ingest, as proved: digest, size in bytes, and in `pieces` the XXH3-128 of each piece, 16
    bytes apiece."""

    digest: Digest
    size: int
    pieces: bytes


class Ingest:
    """Receive one file. `land` and `landing` may be used by several threads at once; everything else by one at a
    time."""

    def __init__(self, part: Path, entry: Entry) -> None:
        """Open or resume. Landed pieces are trusted only if their bytes still have the recorded XXH3."""
        self.part = part
        self.entry = entry
        self.count = math.ceil(entry.size / PIECE_BYTES)
        self._state_path = part.with_suffix(".pieces")
        self._state: PieceState | None = None
        self._lock = threading.Lock()
        self._frontier = threading.Lock()
        self._allocating = threading.Lock()
        self._allocated = 0
        self._landed: dict[int, bytes] = {}
        self._begun: dict[int, Begun] = {}
        self._next = 0
        self._users = 0
        self._closed = False
        self._checks = Checks(entry.size, entry.digest, entry.checksums)
        with disk_errors(f"preparing {entry.path}"):
            self._fd = open_part(part, os.O_RDWR)
            try:
                self._prepare()
            except BaseException:
                os.close(self._fd)
                raise

    def __repr__(self) -> str:
        return f"<Ingest {self.entry.path} {len(self._landed)}/{self.count} pieces{' closed' if self._closed else ''}>"

    @property
    def landed_bytes(self) -> int:
        with self._lock:
            whole = sum(self._piece(index).length for index in self._landed)
            return whole + sum(begun.done for begun in self._begun.values())

    def begun(self, piece: Piece) -> int:
        """Return how many bytes of the piece are written already and need not be fetched again."""
        with self._lock:
            return self._begun[piece.index].done if piece.index in self._begun else 0

    def missing(self) -> list[Piece]:
        with self._lock:
            return [self._piece(index) for index in range(self.count) if index not in self._landed]

    def land(self, piece: Piece, data: bytes) -> None:
        """Write one complete piece and record its XXH3. Raise SizeMismatch unless `data` has exactly its length."""
        with self.landing(piece) as landing:
            landing.write(memoryview(data)[landing.done :])

    @contextlib.contextmanager
    def landing(self, piece: Piece, before: Callable[[], None] = lambda: None) -> Iterator[Landing]:
        """Write one piece slice by slice; leaving the block lands it. Raise SizeMismatch unless it is complete by then.

        `before` is called once there is a first slice, and before any of it is written. Writing continues after
        `landing.done` bytes, which an earlier try has written.

        As soon as the piece is the next in order, it is also checked slice by slice, while the bytes are in the core's
        cache. Otherwise every file that is received in several pieces at once would have to be read back.
        """
        with self._lock:
            if self._closed:
                raise StoreDegraded(f"The ingest of {self.entry.path} is closed.")
            self._users += 1
        claim = functools.partial(self._claim, piece)
        try:
            prepare = functools.partial(self._make_room, piece, before)
            note = functools.partial(self._note, piece)
            with self._lock:
                begun = self._begun.get(piece.index) or Begun(0, xxhash.xxh3_128())
            landing = Landing(self._fd, piece.offset, piece.length, self.entry.path, begun, prepare, claim, note)
            try:
                yield landing
                self._landed_now(piece, landing.finish(), landing.checks)
            finally:
                if landing.checks is not None:
                    self._frontier.release()
            if self._frontier.acquire(blocking=False):  # Otherwise its holder advances over this piece.
                try:
                    with disk_errors(f"reading {self.entry.path} back"):
                        self._advance()
                finally:
                    self._frontier.release()
        finally:
            self._leave()

    def _make_room(self, piece: Piece, before: Callable[[], None]) -> None:
        before()
        if self.count > 1:  # The one write of a single piece allocates its space itself.
            self.allocate(piece.offset + piece.length)

    def allocate(self, end: int) -> None:
        """Allocate the file's first `end` bytes on the disk, and some more. Raise NoSpace before the bytes are
        received, not after.

        The file is not allocated all at once: where allocation is work (tmpfs), the first byte would wait for all of
        it.
        """
        with self._allocating, disk_errors(f"making room for {self.entry.path}"):
            while self._allocated < min(end, self.entry.size):
                length = min(ALLOCATED, self.entry.size - self._allocated)
                os.posix_fallocate(self._fd, self._allocated, length)
                self._allocated += length

    def _claim(self, piece: Piece) -> Checks | None:
        """Acquire the frontier and return the checks up to this piece, if it is the next one and the frontier is free;
        else return None."""
        if self._next != piece.index or not self._frontier.acquire(blocking=False):
            return None
        checks = None
        try:
            if self._next == piece.index:
                checks = self._checks.copy()  # An interrupted piece must leave no trace.
        finally:
            if checks is None:
                self._frontier.release()
        return checks

    def _note(self, piece: Piece, begun: Begun) -> None:
        """Record that the first bytes of the piece are written."""
        with self._lock:
            self._begun[piece.index] = begun
            if self._state is not None:
                self._state.add(Claim(piece.index, begun.done, begun.running.digest()))

    def _landed_now(self, piece: Piece, checksum: bytes, checks: Checks | None) -> None:
        with self._lock, disk_errors(f"writing {self.entry.path}"):
            self._landed[piece.index] = checksum
            if checks is not None:
                self._checks, self._next = checks, piece.index + 1
            self._begun.pop(piece.index, None)
            if self._state is not None:
                self._state.add(Claim(piece.index, None, checksum))

    def adopt(self) -> None:
        """Accept every missing piece as it is in the file, which a reader's own engine has written. `verify` then
        checks them."""
        for piece in self.missing():
            running = xxhash.xxh3_128()
            with disk_errors(f"reading {self.entry.path} back"):
                for data in slices(self._fd, piece.offset, piece.length):
                    running.update(data)
            self._landed_now(piece, running.digest(), None)

    def verify(self) -> Verified:
        """Check the size and every promised digest, and fsync. On DigestMismatch the bytes are deleted. Raise
        SizeMismatch when a piece is missing.

        A failed fsync raises StoreDegraded, and the bytes are deleted too: the kernel may have dropped the dirty pages
        and would report success the second time.
        """
        with self._frontier, disk_errors(f"reading {self.entry.path} back"):
            self._advance()
        if self._next != self.count:
            raise SizeMismatch(f"{self.entry.path} is incomplete: {self._next} of {self.count} pieces are there.")
        try:
            digest = self._checks.finish(self.entry.path)
            make_durable(self._fd, self.entry.path)
        except BaseException:
            self.discard()
            raise
        return Verified(digest, self.entry.size, b"".join(self._landed[index] for index in range(self.count)))

    def close(self) -> None:
        """Park the ingest: landed pieces stay for a later resume. Safe while `land` runs; the last user closes the
        file."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._users += 1
        self._leave()

    def discard(self) -> None:
        """Close the ingest and delete everything that was written."""
        self.close()
        for path in (self.part, self._state_path):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._closed and self._users == 0
        if last:
            with disk_errors(f"closing {self.entry.path}"):
                os.close(self._fd)
                if self._state is not None:
                    self._state.close()

    def _piece(self, index: int) -> Piece:
        offset = index * PIECE_BYTES
        return Piece(index, offset, min(PIECE_BYTES, self.entry.size - offset))

    def _prepare(self) -> None:
        if self.count > 1 and os.fstat(self._fd).st_size == self.entry.size:
            self._resume()
        else:
            if os.fstat(self._fd).st_size:
                os.ftruncate(self._fd, 0)
            os.ftruncate(self._fd, self.entry.size)
        if self.count < 2:
            return  # A single piece is published or fetched again, never resumed.
        claims = [Claim(index, None, checksum) for index, checksum in sorted(self._landed.items())]
        claims += [Claim(index, begun.done, begun.running.digest()) for index, begun in sorted(self._begun.items())]
        self._state = PieceState(self._state_path, claims)

    def _resume(self) -> None:
        """Restore the recorded pieces whose bytes have the recorded checksum."""
        for claim in recorded(self._state_path):
            if not 0 <= claim.index < self.count:
                continue
            piece = self._piece(claim.index)
            count = piece.length if claim.count is None else claim.count
            if count > piece.length:
                continue
            running = xxhash.xxh3_128()
            for data in slices(self._fd, piece.offset, count):
                running.update(data)
            if running.digest() != claim.checksum:
                continue
            if count == piece.length:
                self._landed[claim.index] = claim.checksum
            else:
                self._begun[claim.index] = Begun(count, running)
        self._advance()

    def _advance(self) -> None:
        """Run the checks over the contiguous prefix of landed pieces, from the page cache."""
        while True:
            with self._lock:
                if self._next not in self._landed:
                    return
                piece = self._piece(self._next)
            for data in slices(self._fd, piece.offset, piece.length):
                self._checks.update(data)
            with self._lock:
                self._next += 1


def open_part(path: Path | str, flags: int) -> int:
    """Open an ingest's file, or create it, and return its descriptor. A file that was ready to be published, but never
    was, is read-only; it is made writable first."""
    try:
        return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError:
        os.chmod(path, 0o600)
        return os.open(path, flags | os.O_CLOEXEC)
