"""Questions to workers, of which the test is one: when a caller that gives up may go."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from cached.access import Credentials
from cached.daemon.transfer.crew import Crew, Member
from cached.model import Entry, Listing, ModelRef
from cached.worker.messages import Close, Prove, Question, Resolve

REF = ModelRef.parse("org/name")
LISTING = Listing(REF, "hf://hub/org/name", "c", (Entry("w", 1, "v"),))


class Running:
    """In a process's place: it goes on until it is killed."""

    def __init__(self) -> None:
        self.killed = asyncio.Event()
        self.pid = -1

    async def wait(self) -> int:
        await self.killed.wait()
        return 0

    def kill(self) -> None:
        self.killed.set()


@pytest.fixture
async def crew() -> AsyncIterator[Crew]:
    ours, theirs = socket.socketpair()
    member = Member(*await asyncio.open_connection(sock=ours))
    crew = Crew(cast(Any, Running()), [member], lambda came: None, cast(Any, None), cast(Any, None))
    yield crew
    crew.end()
    theirs.close()
    await crew.gone
    member.writer.close()


async def give_up(crew: Crew, question: Question) -> bool:
    """Whether the caller is free at once, the worker being silent."""
    asking = asyncio.create_task(crew.ask(crew.members[0], question))
    while not crew.members[0].pending:
        await asyncio.sleep(0)
    asking.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    return asking.done()


@pytest.mark.parametrize(
    "question",
    [Resolve(REF, Credentials(), 1.0), Prove(LISTING, Credentials(), 1.0)],
    ids=["resolve", "prove"],
)
async def test_who_gives_up_a_question_that_writes_to_no_file_is_free_at_once(crew: Crew, question: Question) -> None:
    assert await give_up(crew, question)


async def test_who_gives_up_another_waits_for_the_worker(crew: Crew) -> None:
    assert not await give_up(crew, Close(1, discard=False))
