"""Questions to sources: nobody's wait for long because another user asks for what does not end."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator

import pytest

from cached import CachedError
from cached.daemon.runtime import shares as shares_module
from cached.daemon.runtime.shares import Shares
from cached.errors import Overloaded
from tests.daemon_process import DaemonProcess
from tests.people import Person
from tests.servers import EndlessServer
from tests.waiting import until


class Asking:
    """Questions that run until they are told to end. `begun` has their names in the order in which they began."""

    def __init__(self, together: int) -> None:
        self.shares, self.begun, self._ends = Shares(together), [], {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def ask(self, *names: str) -> None:
        """The first letter is the user."""
        for name in names:
            self._ends[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._one(name))

    async def _one(self, name: str) -> None:
        async with self.shares.turn(ord(name[0])):
            self.begun.append(name)
            await self._ends[name].wait()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self._tasks[name]
        await settle()

    async def leave(self, name: str) -> None:
        self._tasks[name].cancel()
        await asyncio.wait([self._tasks[name]])
        await settle()

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.wait(self._tasks.values())
        assert (self.shares._running, self.shares._waiting) == ({}, {})


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_user_may_have_a_quarter_and_others_are_not_kept_waiting() -> None:
    asking = Asking(8)
    asking.ask("a1", "a2", "a3", "a4", "b1")
    await settle()
    assert asking.begun == ["a1", "a2", "b1"]
    await asking.end("a1")
    assert asking.begun == ["a1", "a2", "b1", "a3"]
    await asking.close()


async def test_when_all_are_taken_users_come_in_turn() -> None:
    asking = Asking(4)
    asking.ask("a1", "b1", "c1", "d1", "e1", "e2", "f1")
    await settle()
    assert asking.begun == ["a1", "b1", "c1", "d1"]
    for name in ("a1", "b1", "c1"):
        await asking.end(name)
    assert asking.begun[4:] == ["e1", "f1"]
    await asking.end("e1")
    assert asking.begun[6:] == ["e2"]
    await asking.close()


async def test_one_that_is_given_up_while_it_waits_takes_nobodys_place() -> None:
    asking = Asking(4)
    asking.ask("a1", "a2", "a3")
    await settle()
    await asking.leave("a2")
    await asking.leave("a1")
    assert asking.begun == ["a1", "a3"]
    await asking.close()


async def test_one_that_is_given_up_in_the_moment_in_which_another_ends_is_cancelled_and_nothing_else() -> None:
    asking = Asking(4)
    asking.ask("a1", "a2")
    await settle()
    asking._ends["a1"].set()  # It comes round first, and upon the turn that was given up.
    asking._tasks["a2"].cancel()
    await settle()
    assert asking._tasks["a2"].cancelled()
    assert asking._tasks["a1"].done()
    asking.ask("a3")
    await settle()
    assert asking.begun == ["a1", "a3"]
    await asking.close()


async def test_a_user_with_too_many_that_wait_is_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares_module, "WAITING", 2)
    asking = Asking(4)
    asking.ask("a1", "a2", "a3")
    await settle()
    with pytest.raises(Overloaded, match="2 of your requests wait for their turn already; try again later") as raised:
        async with asking.shares.turn(ord("a")):
            pass
    assert raised.value.retryable
    async with asking.shares.turn(ord("b")):
        pass
    await asking.close()


@pytest.fixture
def endless() -> Iterator[EndlessServer]:
    with EndlessServer() as server:
        yield server


@pytest.fixture
def node(endless: EndlessServer, reachable: DaemonProcess) -> DaemonProcess:
    """With one worker."""
    settings = {"hub_endpoint": endless.endpoint, "workers": 1, "read_timeout": "60s"}
    return reachable.start(resolve_timeout="60s", **settings)


def plan(daemon: DaemonProcess, uri: str) -> int:
    """Bytes of the model, by what its source lists: nothing is fetched."""
    with daemon.client() as client:
        return int(client.call("POST", "/v1/plan", {"uri": uri})["size"])


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")
def test_a_user_whose_sources_do_not_answer_keeps_no_other_user_from_resolving(
    node: DaemonProcess, endless: EndlessServer
) -> None:
    endless.hold()
    hostile = Person(node, 4001)

    def ask_for_forty() -> tuple[None, list[threading.Thread]]:
        def one(number: int) -> None:
            with hostile.client() as client:
                client.pull(f"hf://org/endless{number}")

        threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(40)]
        for thread in threads:
            thread.start()
        return None, threads

    with hostile._child(ask_for_forty):
        until(lambda: endless.pages >= 4 and len(node.status()["fills"]) == 40)
        assert plan(node, "hf://org/finite") == 2
    assert endless.pages == 4
    endless.release()


def test_what_nobody_waits_for_any_more_is_not_listed_to_its_end(node: DaemonProcess, endless: EndlessServer) -> None:
    endless.hold()
    for number in range(4):
        with node.client() as client, pytest.raises(CachedError):
            client.pull(f"hf://org/endless{number}", timeout=1, abandon=True)
    until(lambda: node.status()["fills"] == [])
    pages = endless.pages
    endless.release()
    for _ in range(20):  # As long as these take, others could have gone on.
        assert plan(node, "hf://org/finite") == 2
    assert endless.pages == pages
    assert node.log.read_text().count("fill.cancelled") == 4


def test_a_plan_that_nobody_waits_for_any_more_is_given_up(node: DaemonProcess, endless: EndlessServer) -> None:
    endless.hold()
    for number in range(4):
        with node.client(timeout=1) as client, pytest.raises(CachedError):
            client.call("POST", "/v1/plan", {"uri": f"hf://org/endless{number}"})
    pages = endless.pages
    endless.release()
    for _ in range(20):
        assert plan(node, "hf://org/finite") == 2
    assert endless.pages <= pages + 4, "what was asked while it was given up may be answered, and is the last"
