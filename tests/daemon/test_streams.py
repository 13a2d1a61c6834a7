"""Reads of files, shared out over connections: what happens to them when a file is given up."""

from __future__ import annotations

import asyncio

import pytest

from cached.daemon.transfer.streams import Streams
from cached.daemon.transfer.turns import Part, Work
from cached.errors import SourceDenied, SourceUnavailable


class Reads:
    """Parts that wait to be told how they end."""

    def __init__(self) -> None:
        self.begun: list[asyncio.Future[None]] = []

    async def read(self) -> None:
        self.begun.append(asyncio.get_running_loop().create_future())
        await self.begun[-1]

    async def running(self, count: int) -> None:
        while len(self.begun) < count:
            await asyncio.sleep(0)


@pytest.fixture
def reads() -> Reads:
    return Reads()


def work_of(reads: Reads, parts: int) -> Work:
    return Work("w", "s3://origin", "model", [Part(reads.read) for _ in range(parts)])


def later() -> SourceUnavailable:
    error = SourceUnavailable("The source asks for a pause.")
    error.retry_after = 60.0
    return error


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_read_that_fails_after_its_file_was_cancelled_is_not_tried_again(reads: Reads) -> None:
    running = asyncio.create_task(Streams(4, 4, retries=5).run(work_of(reads, 1)))
    await reads.running(1)
    running.cancel()
    await settle()
    reads.begun[0].set_exception(later())
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 10)
    assert len(reads.begun) == 1


async def test_the_first_part_that_fails_for_good_ends_the_others(reads: Reads) -> None:
    running = asyncio.create_task(Streams(4, 4, retries=5).run(work_of(reads, 2)))
    await reads.running(2)
    reads.begun[0].set_exception(SourceDenied("no"))
    await settle()
    reads.begun[1].set_exception(later())
    with pytest.raises(SourceDenied):
        await asyncio.wait_for(running, 10)
    assert len(reads.begun) == 2
