"""Work whose caller has left may still fail: that is no bug, and is not logged as one."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any, cast

import pytest
from aiohttp import web

from cached.daemon.http.api import _while_connected
from cached.daemon.space.running import Running
from cached.errors import AllHeld, DaemonUnavailable


@pytest.fixture
async def bugs() -> Callable[[], list[str]]:
    """What asyncio logs of errors that nobody has looked at."""
    heard: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(str(context["exception"])))

    def collected() -> list[str]:
        gc.collect()
        return heard

    return collected


async def fails_in_the_end(begun: asyncio.Event) -> None:
    begun.set()
    try:
        await asyncio.Event().wait()
    finally:
        raise AllHeld("x")


async def nothing() -> None:
    pass


async def test_a_fill_that_fails_while_it_is_stopped_is_not_logged(bugs: Callable[[], list[str]]) -> None:
    running, begun = Running(), asyncio.Event()
    running.begin(1, "hf://org/model")
    fill = asyncio.create_task(running.run(1, fails_in_the_end(begun), nothing))
    await begun.wait()
    running._fills[1].stopped.set()
    await asyncio.wait([fill])
    assert "org/model" in str(fill.exception())
    del fill  # And with it what its trace holds.
    assert bugs() == []


async def test_a_fill_that_fails_while_its_caller_leaves_is_not_logged(bugs: Callable[[], list[str]]) -> None:
    running, begun = Running(), asyncio.Event()
    running.begin(1, "hf://org/model")
    fill = asyncio.create_task(running.run(1, fails_in_the_end(begun), nothing))
    await begun.wait()
    fill.cancel()
    await asyncio.wait([fill])
    await running.left(1)
    del fill, running
    assert bugs() == []


async def test_an_answer_that_fails_while_its_caller_leaves_is_not_logged(bugs: Callable[[], list[str]]) -> None:
    class Gone:
        transport = None

    work = cast(Any, fails_in_the_end(asyncio.Event()))
    answer = asyncio.create_task(_while_connected(cast(web.Request, Gone()), work))
    await asyncio.wait([answer])
    assert isinstance(answer.exception(), DaemonUnavailable)
    if left := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(left)
    del answer, work, left
    assert bugs() == []
