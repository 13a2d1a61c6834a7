"""Reading published bytes again: what is found, and what the reading leaves behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import xxhash

from cached.model import PIECE_BYTES, Digest
from cached.store.blobs.quiet_reader import BLOCK, QuietReader
from cached.store.blobs.verify import check

DATA = os.urandom(2 * PIECE_BYTES + 12_345)
DIGEST = Digest.of(DATA)
PIECES = b"".join(xxhash.xxh3_128_digest(DATA[at : at + PIECE_BYTES]) for at in range(0, len(DATA), PIECE_BYTES))


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    path = tmp_path / "blob"
    path.write_bytes(DATA)
    return path


def flip(path: Path, *offsets: int) -> None:
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 4]))


@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_blob_has_no_problem_and_says_its_pieces(blob: Path, deep: bool) -> None:
    found = check(str(blob), DIGEST, len(DATA), PIECES, deep)
    assert (found.problem, found.pieces, found.hashed) == (None, PIECES, deep)
    assert found.mtime_ns == blob.stat().st_mtime_ns


@pytest.mark.parametrize("deep", [False, True])
def test_every_flipped_bit_is_found_and_its_piece_named(blob: Path, deep: bool) -> None:
    flip(blob, 7, 2 * PIECE_BYTES + 12_344)
    found = check(str(blob), DIGEST, len(DATA), PIECES, deep)
    assert found.problem == "damaged pieces 0, 2"
    assert found.bad == (0, 2)


@pytest.mark.parametrize("known", [None, PIECES[:-1]], ids=["none", "cut off"])
def test_without_stored_checksums_the_sha256_decides(blob: Path, known: bytes | None) -> None:
    found = check(str(blob), DIGEST, len(DATA), known, deep=False)
    assert (found.problem, found.pieces, found.hashed) == (None, PIECES, True)
    flip(blob, 7)
    assert check(str(blob), DIGEST, len(DATA), known, deep=False).problem == "wrong sha256"


def test_a_blob_whose_sha256_is_right_is_sound_whatever_was_stored_about_it(blob: Path) -> None:
    found = check(str(blob), DIGEST, len(DATA), bytes(len(PIECES)), deep=False)
    assert (found.problem, found.pieces) == (None, PIECES)


def test_what_is_no_blob_is_said_in_words(tmp_path: Path, blob: Path) -> None:
    link, folder = tmp_path / "link", tmp_path / "folder"
    link.symlink_to(blob)
    folder.mkdir()
    for path in (link, folder):
        assert check(str(path), DIGEST, len(DATA), PIECES, deep=False).problem == "not a regular file"
    assert check(str(tmp_path / "absent"), DIGEST, len(DATA), PIECES, deep=False).problem == "missing"
    os.truncate(blob, 5)
    assert check(str(blob), DIGEST, len(DATA), PIECES, deep=False).problem == f"5 bytes instead of {len(DATA)}"


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
@pytest.mark.parametrize("direct", [False, True])
def test_every_byte_is_read_once_and_in_order(tmp_path: Path, size: int, direct: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA[:size])
    reader = QuietReader(str(path), direct)
    assert b"".join(bytes(block) for block in reader.blocks(size)) == DATA[:size]
    reader.close()


def test_a_check_leaves_the_page_cache_as_it_found_it(blob: Path) -> None:
    fd = os.open(blob, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    os.pread(fd, 64 * 1024, BLOCK)
    before = resident(blob)
    for deep in (False, True):
        assert check(str(blob), DIGEST, len(DATA), PIECES, deep).problem is None
        assert resident(blob) == before
    os.close(fd)


def resident(path: Path) -> list[bool]:
    """Which of its pages the kernel keeps in memory."""
    reader = QuietReader(str(path))
    try:
        return [page for start in range(0, path.stat().st_size, BLOCK) for page in reader._resident(start)]
    finally:
        reader.close()
