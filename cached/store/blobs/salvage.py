"""Reuse a damaged blob: its good pieces become the beginning of the ingest that replaces it."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from cached.model import PIECE_BYTES, Digest
from cached.store.blobs.ingest import open_part
from cached.store.blobs.piece_journal import Claim, PieceState, recorded

_CHUNK = 64 << 20


def note(target: str, size: int, pieces: bytes | None, bad: Iterable[int]) -> None:
    """Record beside a quarantined blob which of its pieces are good, where that is known."""
    damaged = set(bad)
    if not pieces or not damaged or size <= PIECE_BYTES:
        return
    good = (index for index in range(len(pieces) // 16) if index not in damaged)
    claims = [Claim(index, None, pieces[16 * index : 16 * index + 16]) for index in good]
    PieceState(Path(f"{target}.pieces"), claims).close()


def take_over(quarantine: Path, digest: Digest, part: Path, size: int) -> None:
    """Copy the good pieces of the latest damaged copy into `part`, with its piece state beside it. Do nothing where
    there is no such copy.

    The ingest that opens `part` checks each of them.
    """
    for notes in sorted(quarantine.glob(f"{digest.hex}.*.pieces"), key=_age):
        source = notes.with_suffix("")
        claims = [claim for claim in recorded(notes) if claim.count is None]
        with contextlib.suppress(FileNotFoundError):  # Deleted just now, to free its space.
            if claims and stat.S_ISREG(source.lstat().st_mode) and source.lstat().st_size == size:
                _copy(source, part, size, claims)
                return


def _age(path: Path) -> float:
    """Return a sort key that puts the latest file first."""
    try:
        return -path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _copy(source: Path, part: Path, size: int, claims: list[Claim]) -> None:
    """Copy the claimed pieces, then write the state: without it the part is only allocated space."""
    with contextlib.ExitStack() as stack:
        taken = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, taken)
        given = open_part(part, os.O_RDWR)
        stack.callback(os.close, given)
        os.ftruncate(given, size)
        for claim in claims:
            start = claim.index * PIECE_BYTES
            _copy_range(taken, given, start, min(size, start + PIECE_BYTES))
    PieceState(part.with_suffix(".pieces"), claims).close()


def _copy_range(taken: int, given: int, start: int, end: int) -> None:
    while start < end:
        try:
            count = os.copy_file_range(taken, given, min(_CHUNK, end - start), start, start)
        except OSError:  # An unreadable piece is damaged; its checksum will show it.
            return
        if not count:
            return
        start += count
