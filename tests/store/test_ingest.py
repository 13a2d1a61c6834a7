from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from cached.errors import DigestMismatch, SizeMismatch
from cached.model import PIECE_BYTES, Checksum, Digest, Entry
from cached.store.blobs.ingest import Ingest
from cached.store.blobs.piece_writer import NOTED, SLICE

DATA = os.urandom(2 * PIECE_BYTES + 12_345)


def entry(data: bytes = DATA, digest: Digest | None = None, *checksums: Checksum) -> Entry:
    return Entry("model.safetensors", len(data), "v1", digest, checksums)


def land(ingest: Ingest, data: bytes, *indices: int) -> None:
    for piece in ingest.missing():
        if piece.index in indices or not indices:
            ingest.land(piece, data[piece.offset : piece.offset + piece.length])


def test_pieces_may_land_in_any_order(tmp_path: Path) -> None:
    ingest = Ingest(tmp_path / "a.part", entry())
    for piece in reversed(ingest.missing()):
        ingest.land(piece, DATA[piece.offset : piece.offset + piece.length])
    verified = ingest.verify()
    assert verified.digest == Digest.of(DATA)
    assert ingest.part.read_bytes() == DATA
    assert len(verified.pieces) == 3 * 16


def test_a_file_of_no_bytes_is_a_blob(tmp_path: Path) -> None:
    assert Ingest(tmp_path / "a.part", entry(b"")).verify().digest == Digest.of(b"")


def test_landed_pieces_are_kept_by_a_resume_and_the_rest_is_missing(tmp_path: Path) -> None:
    first = Ingest(tmp_path / "a.part", entry())
    land(first, DATA, 0, 2)
    first.close()
    second = Ingest(tmp_path / "a.part", entry())
    assert [piece.index for piece in second.missing()] == [1]
    land(second, DATA)
    assert second.verify().digest == Digest.of(DATA)


def test_a_resume_believes_only_pieces_whose_bytes_have_the_recorded_checksum(tmp_path: Path) -> None:
    first = Ingest(tmp_path / "a.part", entry())
    land(first, DATA, 0, 1)
    first.close()
    with (tmp_path / "a.part").open("r+b") as file:
        file.seek(PIECE_BYTES + 5)
        file.write(b"damage")
    second = Ingest(tmp_path / "a.part", entry())
    assert [piece.index for piece in second.missing()] == [1, 2]


def test_a_torn_line_of_piece_state_is_left_out(tmp_path: Path) -> None:
    first = Ingest(tmp_path / "a.part", entry())
    land(first, DATA, 0)
    first.close()
    with (tmp_path / "a.pieces").open("a") as file:
        file.write("1 0123abc")
    assert [piece.index for piece in Ingest(tmp_path / "a.part", entry()).missing()] == [1, 2]


def test_bytes_that_break_a_promised_digest_are_gone(tmp_path: Path) -> None:
    ingest = Ingest(tmp_path / "a.part", entry(DATA, Digest.of(b"something else")))
    land(ingest, DATA)
    with pytest.raises(DigestMismatch):
        ingest.verify()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("algorithm", "right"),
    [
        ("git-sha1", hashlib.sha1(b"blob 9\x00" + b"123456789").hexdigest()),
        ("md5", hashlib.md5(b"123456789").hexdigest()),
        ("crc32c", "e3069283"),  # The check value of RFC 3720's CRC.
    ],
)
def test_every_checksum_that_a_source_promises_is_checked(tmp_path: Path, algorithm: str, right: str) -> None:
    data = b"123456789"
    good = Ingest(tmp_path / "a.part", entry(data, None, Checksum(algorithm, right)))
    land(good, data)
    assert good.verify().digest == Digest.of(data)
    bad = Ingest(tmp_path / "b.part", entry(data, None, Checksum(algorithm, "0" * len(right))))
    land(bad, data)
    with pytest.raises(DigestMismatch, match=algorithm):
        bad.verify()


def test_a_short_piece_is_refused_before_it_is_written(tmp_path: Path) -> None:
    ingest = Ingest(tmp_path / "a.part", entry())
    with pytest.raises(SizeMismatch):
        ingest.land(ingest.missing()[0], b"short")
    assert ingest.landed_bytes == 0


def test_an_incomplete_ingest_does_not_verify(tmp_path: Path) -> None:
    ingest = Ingest(tmp_path / "a.part", entry())
    land(ingest, DATA, 0, 2)
    with pytest.raises(SizeMismatch, match="1 of 3"):
        ingest.verify()


def test_a_piece_that_breaks_off_leaves_no_trace_in_the_checks(tmp_path: Path) -> None:
    ingest = Ingest(tmp_path / "a.part", entry())
    first = ingest.missing()[0]
    with pytest.raises(ConnectionError), ingest.landing(first) as landing:
        landing.write(memoryview(DATA[:1000]))
        raise ConnectionError
    with pytest.raises(SizeMismatch), ingest.landing(first) as landing:
        landing.write(memoryview(DATA[:1000]))
    assert ingest.landed_bytes == 0
    land(ingest, DATA)
    assert ingest.verify().digest == Digest.of(DATA)


def break_off(ingest: Ingest, index: int, count: int) -> None:
    """`count` bytes of a piece are written in slices, and then the connection breaks."""
    piece = ingest.missing()[index]
    data = memoryview(DATA)[piece.offset : piece.offset + count]
    with pytest.raises(ConnectionError), ingest.landing(piece) as landing:
        for start in range(landing.done, count, SLICE):
            landing.write(data[start : start + SLICE])
        raise ConnectionError


def go_on(ingest: Ingest) -> list[int]:
    """Land what is missing; from which byte of each piece."""
    began = []
    for piece in ingest.missing():
        with ingest.landing(piece) as landing:
            began.append(landing.done)
            landing.write(memoryview(DATA)[piece.offset + landing.done : piece.offset + piece.length])
    return began


@pytest.mark.parametrize("restarted", [False, True])
def test_a_piece_that_broke_off_goes_on_where_its_bytes_were_last_noted(tmp_path: Path, restarted: bool) -> None:
    ingest = Ingest(tmp_path / "a.part", entry())
    break_off(ingest, 0, NOTED + SLICE)
    break_off(ingest, 1, 2 * NOTED)
    if restarted:
        ingest.close()
        ingest = Ingest(tmp_path / "a.part", entry())
    assert ingest.landed_bytes == 3 * NOTED
    assert go_on(ingest) == [NOTED, 2 * NOTED, 0]
    assert ingest.verify().digest == Digest.of(DATA)
    assert ingest.part.read_bytes() == DATA


def test_a_resume_believes_a_begun_piece_only_while_its_bytes_have_the_noted_checksum(tmp_path: Path) -> None:
    first = Ingest(tmp_path / "a.part", entry())
    break_off(first, 0, NOTED)
    break_off(first, 1, NOTED)
    first.close()
    with (tmp_path / "a.part").open("r+b") as file:
        file.seek(PIECE_BYTES + 5)
        file.write(b"damage")
    second = Ingest(tmp_path / "a.part", entry())
    assert go_on(second) == [NOTED, 0, 0]
    assert second.verify().digest == Digest.of(DATA)


@pytest.mark.parametrize("line", ["0:99999999999 " + "0" * 32, "7:5 " + "0" * 32, "0: " + "0" * 32, "0:x " + "0" * 32])
def test_a_claim_that_makes_no_sense_is_left_out(tmp_path: Path, line: str) -> None:
    first = Ingest(tmp_path / "a.part", entry())
    break_off(first, 0, NOTED)
    first.close()
    with (tmp_path / "a.pieces").open("a") as file:
        file.write(line + "\n")
    second = Ingest(tmp_path / "a.part", entry())
    land(second, DATA)
    assert second.verify().digest == Digest.of(DATA)
