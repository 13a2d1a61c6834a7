"""Whoever goes in the wrong moment leaves nothing behind: no room, no fetch, no place at the door."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from cached.access import Credentials
from cached.config import Config
from cached.daemon.access.callers import Caller
from cached.daemon.access.people import People
from cached.daemon.access.whose import Whose
from cached.daemon.acquire import fill as filling
from cached.daemon.acquire.counters import Counters
from cached.daemon.acquire.fill import Filler
from cached.daemon.acquire.fill_job import Fill
from cached.daemon.acquire.placement import Place, Places
from cached.daemon.acquire.request import Ask
from cached.daemon.acquire.rights import Registrar, Rights
from cached.daemon.http.acquire_request import Acquire
from cached.daemon.http.acquiring import Acquiring
from cached.daemon.http.guests import Guests
from cached.daemon.http.server import Door
from cached.daemon.space.disk import Disk
from cached.daemon.space.disks import Disks
from cached.daemon.transfer.network import Network
from cached.daemon.transfer.workers import Workers
from cached.model_ref import ModelRef
from tests.daemon.rooms import model

REF = ModelRef.parse("s3://bucket/m")
CALLER = Caller(4001, Credentials())


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    config = Config(root=tmp_path / "root", limit=100 << 20)
    disks = Disks.open(config)
    yield Places(config, disks, cast(Workers, None), Network(config), People(config))
    disks.close()


async def test_a_fill_that_is_cancelled_just_after_its_room_was_reserved_gives_it_back(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    place: Place = next(iter(places))
    disks, config = places._disks, places._config
    rights = Rights(Registrar(config, disks, cast(Workers, None), Whose(config)), model("m", w=1), CALLER)
    fill, ask = Fill(REF), Ask(REF)
    loop = asyncio.get_running_loop()

    def sizes(*args: Any) -> tuple[int, int]:
        loop.call_soon_threadsafe(task.cancel)
        return 0, 0

    monkeypatch.setattr(filling, "_sizes", sizes)
    task = asyncio.create_task(Filler(places, cast(Any, None), cast(Any, None), Counters()).fill(fill, ask, rights))
    await asyncio.wait([task])
    assert task.cancelled()
    store = place.disk.store
    assert (store.usage().reserved, store.index.query("SELECT * FROM fill"), place.room._running._fills) == (0, [], {})


async def test_a_fetch_ends_with_a_caller_whose_answer_could_not_even_be_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    fill = Fill(REF, task=asyncio.create_task(asyncio.Event().wait()))  # type: ignore[arg-type]
    wish = Acquire.parse({"uri": "s3://bucket/m", "abandon": True})

    async def gone(self: object, request: object) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(web.StreamResponse, "prepare", gone)
    await Acquiring._stream(cast(Acquiring, None), cast(web.Request, None), fill, wish, None)
    assert fill.task is not None
    await asyncio.wait([fill.task])
    assert fill.task.cancelled()


@pytest.mark.parametrize("error", [RuntimeError, OSError])
async def test_the_door_stays_open_after_a_connection_that_could_not_be_let_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    loop, guests = asyncio.get_running_loop(), Guests(8, 8)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()
    door, let_in = Door(web.Application(), listener, guests), loop.connect_accepted_socket

    async def fails(*args: Any) -> Any:
        monkeypatch.setattr(loop, "connect_accepted_socket", let_in)
        raise error

    monkeypatch.setattr(loop, "connect_accepted_socket", fails)
    await door.open()
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "socket"))
    assert await reader.read() == b""
    writer.close()
    assert len(guests) == 0
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "socket"))
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b"404" in await reader.readline()
    writer.close()
    await door.close()


async def test_room_is_given_back_only_when_nothing_is_read_for_it_any_more(places: Places) -> None:
    """Who is cancelled twice comes back before that."""
    place: Place = next(iter(places))
    disk: Disk = place.disk
    reserved, reading, ended = await place.room.reserve(model("m", w=1)), asyncio.Event(), asyncio.Event()

    async def read() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            reading.set()
            await ended.wait()

    running = asyncio.create_task(place.room.run(reserved, read()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    running.cancel()
    await reading.wait()
    running.cancel()
    await asyncio.wait([running])
    abandoning = asyncio.create_task(place.room.abandon(reserved))
    for _ in range(5):
        await asyncio.sleep(0)
    assert disk.abandoned == set() and not abandoning.done()
    assert len(disk.store.index.query("SELECT * FROM fill")) == 1
    ended.set()
    await abandoning
    assert disk.store.index.query("SELECT * FROM fill") == []
