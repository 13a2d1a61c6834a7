"""One user has asked for slow models and left: they go on, and the models of the others arrive meanwhile."""

from __future__ import annotations

import _strptime  # noqa: F401  Imported before the forks, for whom it may be out of reach.
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cached import Progress
from tests.daemon_process import DaemonProcess
from tests.people import Person
from tests.servers import Files, HubStub
from tests.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")

SLOW, ALSO_SLOW, OTHER = 4001, 4003, 4002
CONNECTIONS = 2
LARGE = (1 << 20) + 1  # Bytes; a file that has a turn of its own.


@pytest.fixture
def hub() -> Iterator[HubStub]:
    """It sends no byte of any file until it is told to."""
    with HubStub() as running:
        for model in range(8 * CONNECTIONS):
            files = {f"{number}.safetensors": os.urandom(LARGE) for number in range(2 * CONNECTIONS + 2)}
            running.add_commit(f"org/m{model}", files)
        running.withhold()
        yield running
        running.feed()


@pytest.fixture
def quick() -> Iterator[Files]:
    with Files({"/theirs.bin": os.urandom(LARGE)}) as running:
        yield running


@pytest.fixture
def node(hub: HubStub) -> Iterator[DaemonProcess]:
    """With one connection to each server, and another that is free."""
    with tempfile.TemporaryDirectory(prefix="cached-slow-") as folder:
        Path(folder).chmod(0o755)
        sources = {"hub_endpoint": hub.endpoint, "protocols": ["hf", "http"], "private_networks": ["127.0.0.0/8"]}
        pace = {"connections": CONNECTIONS, "min_connections": 1, "read_timeout": "10m"}
        daemon = DaemonProcess(Path(folder, "daemon"), socket_mode="0666", **sources, **pace)
        daemon.socket.parent.chmod(0o755)
        yield daemon.start()
        daemon.close()


class Left(Exception):
    """The caller has gone."""


def ask_and_leave(person: Person, uri: str) -> None:
    def leave(progress: Progress) -> None:
        if progress.phase == "fetching":
            raise Left

    def ask() -> None:
        with person.client() as client, pytest.raises(Left):
            client.acquire(uri, progress=leave)

    person.do(ask)


def opened(daemon: DaemonProcess) -> int:
    return sum(name.endswith(".part") for name in daemon.files("ingest"))


def take_all_that_may_be_open(daemon: DaemonProcess) -> None:
    for model in range(8 * CONNECTIONS):
        ask_and_leave(Person(daemon, (SLOW, ALSO_SLOW)[model % 2]), f"hf://org/m{model}")
    until(lambda: opened(daemon) == 8 * CONNECTIONS)


def test_an_abandoned_model_of_slow_files_does_not_keep_another_users_from_arriving(
    node: DaemonProcess, hub: HubStub, quick: Files
) -> None:
    ask_and_leave(Person(node, SLOW), "hf://org/m0")
    until(lambda: opened(node) >= CONNECTIONS)
    assert not Person(node, OTHER).acquire(f"{quick.endpoint}/theirs.bin", timeout=60.0).hit
    assert [fill["phase"] for fill in node.status()["fills"]] == ["fetching"]
    hub.feed()
    until(lambda: node.status()["fills"] == [])
    assert Person(node, SLOW).acquire("hf://org/m0").hit


def test_users_who_have_all_that_may_be_open_do_not_keep_anothers_model_from_arriving(
    node: DaemonProcess, hub: HubStub, quick: Files
) -> None:
    take_all_that_may_be_open(node)
    assert not Person(node, OTHER).acquire(f"{quick.endpoint}/theirs.bin", timeout=60.0).hit
    assert opened(node) == 8 * CONNECTIONS


def test_who_joins_a_model_that_waits_for_its_users_others_has_it(
    node: DaemonProcess, hub: HubStub, quick: Files
) -> None:
    slow, uri = Person(node, SLOW), f"{quick.endpoint}/theirs.bin"
    take_all_that_may_be_open(node)
    ask_and_leave(slow, uri)
    assert len(node.status()["fills"]) == 8 * CONNECTIONS + 1
    assert not Person(node, OTHER).acquire(uri, timeout=60.0).hit
