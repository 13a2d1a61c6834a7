"""The progress of an ingest, as lines beside it: `INDEX XXH3` for a piece that landed, `INDEX:BYTES XXH3` for one that
began.

The lines are claims. A resume trusts those whose bytes still have the checksum.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cached.store.blobs.piece_writer import write_all


@dataclass(frozen=True, slots=True)
class Claim:
    """Claim that the first `count` bytes of a piece (None: all of them) have this XXH3-128."""

    index: int
    count: int | None
    checksum: bytes

    @property
    def line(self) -> str:
        name = str(self.index) if self.count is None else f"{self.index}:{self.count}"
        return f"{name} {self.checksum.hex()}\n"


class PieceState:
    """A journal file that starts with the given claims and is appended to, by one caller at a time."""

    def __init__(self, path: Path, claims: Iterable[Claim]) -> None:
        text = "".join(claim.line for claim in claims).encode()
        # Write another file first: if there is no space, or the process dies here, the earlier claims remain.
        fresh = path.with_suffix(".fresh")
        self._fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            write_all(self._fd, memoryview(text), 0)
            os.rename(fresh, path)
        except BaseException:
            os.close(self._fd)
            with contextlib.suppress(FileNotFoundError):
                fresh.unlink()
            raise

    def add(self, claim: Claim) -> None:
        os.write(self._fd, claim.line.encode())

    def close(self) -> None:
        os.close(self._fd)


def recorded(path: Path) -> list[Claim]:
    """Return the last claim of each piece, complete pieces first. Torn and invalid lines are left out."""
    found: dict[int, Claim] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text(errors="replace").splitlines():
            claim = _parsed(line)
            if claim is not None:
                found[claim.index] = claim
    return sorted(found.values(), key=lambda claim: (claim.count is not None, claim.index))


def _parsed(line: str) -> Claim | None:
    name, _, checksum = line.partition(" ")
    index, colon, count = name.partition(":")
    if not index.isdecimal() or len(checksum) != 32 or (colon and not count.isdecimal()):
        return None
    with contextlib.suppress(ValueError):
        return Claim(int(index), int(count) if colon else None, bytes.fromhex(checksum))
    return None
