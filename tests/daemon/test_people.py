"""Names of users and groups may be slow to come: nobody but who needs them waits for them."""

from __future__ import annotations

import ast
import asyncio
import grp
import pwd
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cached
from cached.config import Config
from cached.daemon.access import people as people_module
from cached.daemon.access.people import People
from cached.daemon.runtime.peer import Peer

ROOT, STRANGER, OTHER = Peer(1, 0, 0), Peer(2, 4001, 4001), Peer(3, 4002, 4002)
NAMES = ("alice", "@team")
AT_START = {"daemon/main.py", "store/startup/preflight.py"}  # Before anybody is answered.


class Slow:
    """getgrnam that answers when it may. `looks` counts its calls; never on the loop's thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go, self.begun, self.looks = threading.Event(), threading.Event(), 0
        self._loop = threading.get_ident()
        monkeypatch.setattr(grp, "getgrnam", self._elsewhere(self._wait, grp.getgrnam))
        monkeypatch.setattr(pwd, "getpwuid", self._elsewhere(lambda: None, pwd.getpwuid))

    def _wait(self) -> None:
        self.looks += 1
        self.begun.set()
        self.go.wait(30)

    def _elsewhere(self, before: Callable[[], None], call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(asked: Any) -> Any:
            assert threading.get_ident() != self._loop, "on the event loop"
            before()
            return call(asked)

        return instead


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slow:
    return Slow(monkeypatch)  # After the folder is made, for which pytest looks a name up.


@pytest.fixture
def people(tmp_path: Path) -> People:
    return People(Config(root=tmp_path, own_credentials_for=NAMES, admin_group="cached-admin"))


async def test_who_needs_no_name_does_not_wait_for_anothers(slow: Slow, people: People) -> None:
    asking = [asyncio.create_task(ask(STRANGER)) for ask in (people.administers, people.served)]
    await asyncio.to_thread(slow.begun.wait, 30)
    assert await people.administers(ROOT) and await people.served(ROOT)
    assert not any(task.done() for task in asking)
    slow.go.set()
    assert await asyncio.gather(*asking) == [False, False]


async def test_one_look_is_for_all_who_wait_and_is_remembered(slow: Slow, people: People) -> None:
    asking = [asyncio.create_task(people.administers(STRANGER)) for _ in range(20)]
    await asyncio.to_thread(slow.begun.wait, 30)
    asking.pop().cancel()
    slow.go.set()
    assert await asyncio.gather(*asking) == [False] * 19
    assert not await people.administers(STRANGER)
    assert slow.looks == 1
    assert not await people.administers(OTHER)
    assert slow.looks == 2


async def test_who_cannot_be_looked_up_in_time_is_a_stranger_until_the_answer_comes(
    slow: Slow, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people_module, "PATIENCE", 0.0)
    monkeypatch.setattr(people_module, "in_group", lambda peer, group: slow.go.wait(30))
    assert not await people.administers(STRANGER)
    slow.go.set()
    await asyncio.wait(people._asking.values())
    assert await people.administers(STRANGER)


def test_names_are_looked_up_nowhere_else() -> None:
    package = Path(cached.__file__).parent
    found = {str(path.relative_to(package)) for path in package.rglob("*.py") if _looks_up(path)}
    assert found - AT_START == {"daemon/access/people.py"}


def _looks_up(path: Path) -> bool:
    nodes = ast.walk(ast.parse(path.read_text()))
    imported = [name.name for node in nodes if isinstance(node, ast.Import) for name in node.names]
    return bool({"grp", "pwd"} & set(imported))
