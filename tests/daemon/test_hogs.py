"""One user asks for more than the node has room for: the models of the others stay, and are handed out."""

from __future__ import annotations

import _strptime  # noqa: F401  Imported before the forks, for whom it may be out of reach.
import os
from collections.abc import Callable, Iterator

import pytest

from cached import AllHeld, CachedError, TooLarge
from tests.daemon_process import DaemonProcess
from tests.people import Person
from tests.servers import HubStub
from tests.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")

WORKING, HOG = 4001, 4002
MB = 1_000_000
Start = Callable[..., DaemonProcess]


@pytest.fixture
def hub() -> Iterator[HubStub]:
    """Everything in it is open to everybody."""
    with HubStub() as running:
        for number in range(4):
            running.add_commit(f"org/m{number}", {"config.json": b"%d" % number, "w.safetensors": os.urandom(2 * MB)})
        huge = {f"{number}.safetensors": os.urandom(2 * MB) for number in range(4)}
        running.add_commit("org/huge", {"config.json": b"{}", **huge})
        running.add_commit("org/half", {"config.json": b"{ }", "w.safetensors": os.urandom(4 * MB)})
        yield running


@pytest.fixture
def start(hub: HubStub, reachable: DaemonProcess) -> Start:
    watermarks = {"high_watermark": 1.0, "low_watermark": 1.0, "min_residency": "10m"}
    reachable.config(hub_endpoint=hub.endpoint, max_age="1h", limit="9MB", **watermarks)
    return reachable.start


def here(daemon: DaemonProcess) -> set[str]:
    with daemon.client() as client:
        return {row["source"].partition("@")[0] for row in client.call("GET", "/v1/snapshots")["snapshots"]}


MODELS = {f"hf://org/m{number}" for number in range(4)}


def fill_up(working: Person) -> None:
    for uri in sorted(MODELS):
        working.acquire(uri)


def leave_half_way(daemon: DaemonProcess, person: Person, uri: str) -> None:
    """Ask, and go once it is being fetched, as one who wants it no more."""

    def ask() -> None:
        with person.client() as client:
            phases: list[str] = []
            try:
                client.acquire(uri, abandon=True, timeout=5.0, progress=lambda progress: phases.append(progress.phase))
            except CachedError:
                if "fetching" not in phases:
                    raise AssertionError("it was not being fetched") from None

    person.do(ask)
    until(lambda: daemon.status()["fills"] == [])


@pytest.mark.parametrize("share", [0.5, 1.0], ids=["with shares", "without"])
def test_an_abandoned_request_takes_nothing_before_its_first_byte(start: Start, hub: HubStub, share: float) -> None:
    daemon = start(user_share=share, read_timeout="3s", retries=1)
    fill_up(Person(daemon, WORKING))
    hub.withhold()
    try:
        leave_half_way(daemon, Person(daemon, HOG), "hf://org/half")
    finally:
        hub.feed()
    assert here(daemon) == MODELS
    assert daemon.status()["reserved"] == 0
    for uri in MODELS:
        assert Person(daemon, WORKING).acquire(uri).hit


def test_a_model_beyond_a_users_share_is_refused_before_anything_goes(start: Start) -> None:
    daemon = start()
    fill_up(Person(daemon, WORKING))
    hog = Person(daemon, HOG)
    with pytest.raises(AllHeld, match="user_share"):
        hog.acquire("hf://org/huge")
    plan = hog.call("POST", "/v1/plan", {"uri": "hf://org/huge"})
    assert (plan["fits"], plan["evict"]) == (False, []) and "user_share" in plan["reason"]
    assert here(daemon) == MODELS
    with daemon.client() as administrator:  # Who has no share.
        administrator.pull("hf://org/huge")
    assert "hf://org/huge" in here(daemon)


def test_who_goes_on_asking_loses_its_own_models_and_nobody_elses(start: Start, hub: HubStub) -> None:
    for number in range(5):
        hub.add_commit(f"hog/m{number}", {"config.json": b"hog %d" % number, "w.safetensors": os.urandom(MB)})
    daemon = start(user_share=0.3, limit="10MB")
    fill_up(Person(daemon, WORKING))
    hog = Person(daemon, HOG)
    for number in range(5):
        hog.acquire(f"hf://hog/m{number}")
    assert here(daemon) >= MODELS - {"hf://org/m0", "hf://org/m1"}
    assert "hf://hog/m4" in here(daemon)


def test_what_is_larger_than_the_setting_is_for_administrators(start: Start) -> None:
    daemon = start(max_model_size="3MB")
    with pytest.raises(TooLarge, match="`max_model_size`"):
        Person(daemon, WORKING).acquire("hf://org/half")
    with daemon.client() as administrator:
        administrator.pull("hf://org/half")
    assert Person(daemon, WORKING).acquire("hf://org/half").hit


def test_administrators_are_told_who_brought_a_model(start: Start) -> None:
    daemon = start()
    lease = Person(daemon, WORKING).acquire("hf://org/m0")
    with daemon.client() as administrator:
        assert administrator.call("GET", f"/v1/snapshots/{lease.digest}")["brought_by"] == WORKING
    shown = Person(daemon, HOG).call("GET", f"/v1/snapshots/{lease.digest}")
    assert shown["brought_by"] is None
