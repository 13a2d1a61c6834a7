"""Questions to workers, of which the test is one: when a caller that gives up may go."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from cached.access import Credentials
from cached.daemon.transfer.worker_pool import Crew, Member
from cached.model import Digest, Entry, Listing
from cached.model_ref import ModelRef
from cached.worker.messages import Check, Close, Prove, Question, Resolve

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


async def test_who_gives_up_a_question_to_the_nodes_own_disk_is_free_at_once(crew: Crew) -> None:
    assert await give_up(crew, Check(Path("/blob"), Digest.of(b""), 0, None, False))


@pytest.mark.parametrize(
    "question",
    [Resolve(REF, Credentials(), 1.0), Prove(LISTING, Credentials(), 1.0), Close(1, discard=False)],
    ids=["resolve", "prove", "close"],
)
async def test_who_gives_up_another_waits_for_the_worker(crew: Crew, question: Question) -> None:
    """Of a question to a source too: its turn lasts as long."""
    assert not await give_up(crew, question)
