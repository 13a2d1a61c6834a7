"""Reads of files, shared out over connections: what happens to them when a file is given up."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest

from cached.daemon.transfer.fair_queue import Part, Work
from cached.daemon.transfer.scheduler import Streams
from cached.daemon.transfer.users import Users
from cached.errors import AllHeld, SourceDenied, SourceUnavailable


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


def work_of(reads: Reads, parts: int, origin: str = "s3://origin", group: str = "model", small: bool = False) -> Work:
    return Work("w", origin, group, [Part(reads.read) for _ in range(parts)], small)


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


async def test_a_read_that_fails_for_good_after_its_file_was_cancelled_is_no_surprise(reads: Reads) -> None:
    surprises: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: surprises.append(context))
    running = asyncio.create_task(Streams(4, 4, retries=5).run(work_of(reads, 1)))
    await reads.running(1)
    running.cancel()
    await settle()
    reads.begun[0].set_exception(AllHeld("Nobody waits for it."))
    with pytest.raises(asyncio.CancelledError):
        await running
    del running
    reads.begun.clear()
    gc.collect()
    await settle()
    assert surprises == []


async def test_the_first_part_that_fails_for_good_ends_the_others(reads: Reads) -> None:
    running = asyncio.create_task(Streams(4, 4, retries=5).run(work_of(reads, 2)))
    await reads.running(2)
    reads.begun[0].set_exception(SourceDenied("no"))
    await settle()
    reads.begun[1].set_exception(later())
    with pytest.raises(SourceDenied):
        await asyncio.wait_for(running, 10)
    assert len(reads.begun) == 2


async def test_large_files_get_their_connections_back_from_small_ones() -> None:
    small, large = Reads(), Reads()
    streams = Streams(2, 16, retries=5)
    running = [asyncio.create_task(streams.run(work_of(small, 1, small=True))) for _ in range(12)]
    await small.running(4)
    running.append(asyncio.create_task(streams.run(work_of(large, 1, group="large"))))
    running.append(asyncio.create_task(streams.run(work_of(large, 1, group="large"))))
    await settle()
    assert len(small.begun) == 4 and not large.begun
    for read in small.begun[:4]:  # The first two of them are the ones that count.
        read.set_result(None)
    await settle()
    assert len(large.begun) + len(small.begun) == 8 and large.begun
    while not all(task.done() for task in running):
        for read in [*small.begun, *large.begun]:
            if not read.done():
                read.set_result(None)
        await asyncio.sleep(0)


async def test_small_files_of_one_origin_leave_another_its_connections() -> None:
    small, other = Reads(), Reads()
    streams = Streams(2, 4, retries=5)
    many = [asyncio.create_task(streams.run(work_of(small, 1, small=True))) for _ in range(20)]
    await small.running(4)
    late = asyncio.create_task(streams.run(work_of(other, 1, "s3://other")))
    await settle()
    small.begun[3].set_result(None)
    await settle()
    assert other.begun and len(small.begun) == 4
    other.begun[0].set_result(None)
    await asyncio.wait_for(late, 10)
    for task in many:
        task.cancel()
    while not all(task.done() for task in many):
        for read in small.begun:
            if not read.done():
                read.set_result(None)
        await asyncio.sleep(0)


async def end(running: list[asyncio.Task[None]], *reads: Reads) -> None:
    """Whatever has been read of them: else they would be waited for when the test is over."""
    for task in running:
        task.cancel()
    while not all(task.done() for task in running):
        for read in (read for each in reads for read in each.begun):
            if not read.done():
                read.set_result(None)
        await asyncio.sleep(0)


@pytest.mark.parametrize("small", [False, True], ids=["large", "small"])
async def test_an_origin_that_comes_late_has_the_next_connection_however_busy_the_others_are(small: bool) -> None:
    busy, late, streams = Reads(), Reads(), Streams(2, 4, retries=5)
    names = [f"s3://busy{number}" for _ in range(10) for number in range(4)]
    running = [asyncio.create_task(streams.run(work_of(busy, 1, name, small=small))) for name in names]
    await busy.running(4)
    running.append(asyncio.create_task(streams.run(work_of(late, 1, "s3://late", small=small))))
    await settle()
    busy.begun[0].set_result(None)
    await settle()
    begun = len(busy.begun), len(late.begun)
    await end(running, busy, late)
    assert begun == (4, 1)


async def test_origins_that_have_as_few_take_turns() -> None:
    streams, origins = Streams(1, 1, retries=5), {f"s3://origin{number}": Reads() for number in range(3)}
    works = [work_of(reads, 1, name) for name, reads in origins.items() for _ in range(10)]
    running = [asyncio.create_task(streams.run(work)) for work in works]
    for _ in range(5):
        await settle()
        (read,) = (read for reads in origins.values() for read in reads.begun if not read.done())
        read.set_result(None)
    await settle()
    begun = [len(reads.begun) for reads in origins.values()]
    await end(running, *origins.values())
    assert begun == [2, 2, 2]


async def test_origins_without_work_are_left_out_and_the_pace_of_the_last_ones_is_remembered(reads: Reads) -> None:
    streams = Streams(4, 4, retries=5)
    for number in range(300):
        running = asyncio.create_task(streams.run(work_of(reads, 1, f"s3://origin{number}")))
        await reads.running(number + 1)
        streams._origin(f"s3://origin{number}").pace.throttled(60.0, time.monotonic())
        reads.begun[number].set_result(None)
        await asyncio.wait_for(running, 10)
    assert not streams._origins
    assert [streams.paused(f"s3://origin{number}") for number in (0, 43, 44, 299)] == [False, False, True, True]


async def test_what_is_given_up_before_its_turn_leaves_no_origin_behind(reads: Reads) -> None:
    streams = Streams(1, 1, retries=5)
    running = [asyncio.create_task(streams.run(work_of(reads, 1, f"s3://origin{number}"))) for number in range(3)]
    await reads.running(1)
    for task in running[1:]:
        task.cancel()
    await settle()
    reads.begun[0].set_result(None)
    await asyncio.wait_for(running[0], 10)
    assert not streams._origins


async def test_a_user_with_many_slow_origins_leaves_another_its_share_of_the_connections(reads: Reads) -> None:
    users = Users()
    slow, theirs, streams = Reads(), Reads(), Streams(4, 8, 5, users)
    with users.fetching("slow", {1}), users.fetching("theirs", {2}):
        names = [f"s3://slow{number}" for number in range(40)]
        running = [asyncio.create_task(streams.run(work_of(slow, 1, name, group="slow"))) for name in names]
        await settle()
        assert len(slow.begun) == 8
        works = [work_of(theirs, 1, "s3://theirs", group="theirs") for _ in range(8)]
        running += [asyncio.create_task(streams.run(work)) for work in works]
        await settle()
        assured = len(theirs.begun)
        for read in slow.begun[:3]:
            read.set_result(None)
        await settle()
        begun = len(slow.begun), len(theirs.begun)
    await end(running, slow, theirs)
    assert assured == 2, "a quarter, though none is free"
    assert begun[0] == 8 and begun[1] > assured, "and those that become free, until it has as many"


async def test_users_beyond_twice_the_connections_wait(reads: Reads) -> None:
    users = Users()
    streams, running = Streams(4, 4, 5, users), []
    for uid in range(20):
        running.append(asyncio.create_task(_one_of(streams, users, reads, uid)))
    await settle()
    begun = len(reads.begun)
    await end(running, reads)
    assert begun == 8


async def _one_of(streams: Streams, users: Users, reads: Reads, uid: int) -> None:
    with users.fetching(f"m{uid}", {uid}):
        await streams.run(work_of(reads, 1, f"s3://origin{uid}", group=f"m{uid}"))
