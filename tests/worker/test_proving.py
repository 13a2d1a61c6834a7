"""Many questions at once: bounded, ended by the first failure, and never waiting for another's."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from cached.access import Credentials
from cached.errors import SourceDenied, SourceUnavailable
from cached.model import Entry, Listing
from cached.model_ref import ModelRef
from cached.worker.messages import Compare
from cached.worker.proving import AT_ONCE, COMPARED, RANGES, WHOLE, Askers, compare

REF = ModelRef.parse("s3://bucket/m")


def test_every_item_is_asked_about_once_and_no_more_than_the_bound_at_a_time() -> None:
    lock, asked, running, most, full = threading.Lock(), list[int](), 0, 0, threading.Barrier(AT_ONCE)

    def ask(item: int) -> None:
        nonlocal running, most
        with lock:
            asked.append(item)
            running += 1
            most = max(most, running)
        full.wait(30)  # Broken unless so many are asked at once.
        with lock:
            running -= 1

    Askers(4 * AT_ONCE).each(ask, range(10 * AT_ONCE))
    assert sorted(asked) == list(range(10 * AT_ONCE))
    assert most == AT_ONCE


def test_the_first_failure_ends_it() -> None:
    asked = []

    def ask(item: int) -> None:
        asked.append(item)
        raise SourceDenied("no")

    with pytest.raises(SourceDenied):
        Askers(AT_ONCE).each(ask, range(1000))
    assert len(asked) <= AT_ONCE


def test_whoever_asks_gets_on_while_all_helpers_are_busy_with_anothers_questions() -> None:
    askers, hold, busy = Askers(2), threading.Event(), threading.Semaphore(0)

    def hang(item: int) -> None:
        busy.release()
        hold.wait(60)

    other = threading.Thread(target=askers.each, args=(hang, range(3)))
    other.start()
    for _ in range(3):
        busy.acquire()
    asked: list[int] = []
    askers.each(asked.append, range(100))
    assert sorted(asked) == list(range(100))
    hold.set()
    other.join()


class Bytes:
    """A source of one file, and its reader."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[tuple[int, int]] = []

    def open(self, *_: object) -> Bytes:
        return self

    def read(self, offset: int, length: int) -> bytes:
        self.asked.append((offset, length))
        return self.data[offset : offset + length]

    def close(self) -> None: ...


def compared(source: Bytes, path: Path, size: int, whole: bool = False) -> None:
    listing = Listing(REF, "s3://endpoint/bucket/m", "r", (Entry("w.bin", size, "v"),))
    compare(cast(Any, source), Askers(2), Compare(listing, {path: listing.entries[0]}, Credentials(), 5, whole))


@pytest.mark.parametrize("size", [0, 1, COMPARED, COMPARED + 1, 1 << 20, WHOLE, WHOLE + 1])
def test_a_copy_of_what_the_source_gives_is_one(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "blob").write_bytes(data)
    compared(Bytes(data), tmp_path / "blob", size)


def test_what_a_listing_claims_and_the_source_does_not_give_is_denied(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(os.urandom(1 << 20))
    with pytest.raises(SourceDenied, match=r"w\.bin"):
        compared(Bytes(os.urandom(1 << 20)), tmp_path / "blob", 1 << 20)


@pytest.mark.parametrize("there", [1000, 1_000_001], ids=["shorter", "longer"])
def test_a_file_of_another_length_is_no_copy(tmp_path: Path, there: int) -> None:
    data = bytes(1_000_001)  # All the same, so that no range tells them apart.
    (tmp_path / "blob").write_bytes(data[:there])
    with pytest.raises(SourceDenied):
        compared(Bytes(data), tmp_path / "blob", 1_000_000)


def test_which_ranges_are_compared_is_not_to_be_foreseen_and_they_are_small(tmp_path: Path) -> None:
    data = os.urandom(WHOLE + 1)
    (tmp_path / "blob").write_bytes(data)
    source = Bytes(data)
    for _ in range(2):
        compared(source, tmp_path / "blob", len(data))
    assert len({offset for offset, _ in source.asked}) > RANGES
    assert {length for _, length in source.asked} == {COMPARED} and len(source.asked) == 2 * RANGES


@pytest.mark.parametrize("size, whole", [(WHOLE, False), (2 * WHOLE + 1, True)], ids=["small", "doubted"])
def test_who_has_all_but_a_byte_has_not_got_it(tmp_path: Path, size: int, whole: bool) -> None:
    data = os.urandom(size)
    (tmp_path / "blob").write_bytes(data)
    with pytest.raises(SourceDenied):
        compared(Bytes(data[:-1] + bytes([data[-1] ^ 1])), tmp_path / "blob", size, whole)


def test_a_copy_that_has_gone_is_no_false_claim(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable) as caught:
        compared(Bytes(b"12345"), tmp_path / "blob", 5)
    assert not caught.value.seen
