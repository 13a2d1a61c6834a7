"""Room is asked for when bytes are here, a step ahead of them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cached.errors import AllHeld
from cached.model import PIECE_BYTES, Entry
from cached.store.blobs.ingest import ALLOCATED, Ingest
from cached.worker.ahead import Ahead, RoomRequests
from cached.worker.messages import Granted, Wanting

COUNT = 2 * ALLOCATED // PIECE_BYTES + 8


@pytest.fixture
def ingest(tmp_path: Path) -> Any:
    made = Ingest(tmp_path / "key.part", Entry("w", COUNT * PIECE_BYTES - 5, "v1"))
    yield made
    made.close()


def test_a_file_has_the_next_step_of_its_room_and_no_more(ingest: Ingest) -> None:
    asked: list[Mapping[str, int]] = []
    ahead = Ahead(asked.append, "key", ingest)
    for piece in ingest.missing():
        ahead.of(piece)
        assert asked[-1]["key"] >= piece.offset + piece.length
    assert asked == [{"key": ALLOCATED}, {"key": 2 * ALLOCATED}, {"key": ingest.entry.size}]


def test_what_landed_beyond_in_an_earlier_try_counts(ingest: Ingest) -> None:
    last, asked = ingest.missing()[-1], list[Mapping[str, int]]()
    ingest.land(last, bytes(last.length))
    Ahead(asked.append, "key", ingest).of(ingest.missing()[0])
    assert asked == [{"key": ALLOCATED + last.length}]


def test_nothing_is_written_or_set_aside_before_there_is_room(ingest: Ingest) -> None:
    def refuse(steps: Mapping[str, int]) -> None:
        raise AllHeld("no")

    piece = ingest.missing()[0]
    ahead = Ahead(refuse, "key", ingest)
    with pytest.raises(AllHeld), ingest.landing(piece, lambda: ahead.of(piece)) as landing:
        assert ingest.part.stat().st_blocks == 0, "no byte has come"
        landing.write(memoryview(b"first"))
    assert ingest.part.stat().st_blocks == 0


class Heard:
    """In the channel's place."""

    def __init__(self) -> None:
        self.said: list[Wanting] = []
        self.came = threading.Event()

    def send(self, message: Wanting) -> None:
        self.said.append(message)
        self.came.set()


@pytest.mark.parametrize("error", [None, AllHeld("no room")])
def test_a_thread_waits_for_the_daemons_answer_and_raises_its_refusal(error: AllHeld | None) -> None:
    channel, ended = Heard(), list[object]()
    asking = RoomRequests(channel)  # type: ignore[arg-type]

    def ask() -> None:
        try:
            asking.ask(7, {"key": 5})
            ended.append(None)
        except AllHeld as refusal:
            ended.append(refusal)

    thread = threading.Thread(target=ask)
    thread.start()
    assert channel.came.wait(30)
    (wanting,) = channel.said
    assert (wanting.transfer, wanting.steps, ended) == (7, {"key": 5}, [])
    asking.hear(Granted(wanting.number, error))
    thread.join(30)
    assert ended == [error]
