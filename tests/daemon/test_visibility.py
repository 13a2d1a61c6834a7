"""What `ls`, `show` and `leases` tell users of each other: names that are not for everybody, and who uses what."""

from __future__ import annotations

import _strptime  # noqa: F401  Imported before the forks, for whom it may be out of reach.
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cached import Lease, NotCached
from tests.daemon_process import DaemonProcess
from tests.people import Person
from tests.servers import HubStub, RcloneS3
from tests.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")

FILES = {"config.json": b"{}", "model.safetensors": b"the same everywhere"}
OPEN, GATED, BUCKET = "hf://org/open", "hf://org/gated", "s3://customer-x/secret-plan"
OWNER, STRANGER, MEMBER = 4001, 4002, 4003
TOKEN = "hf_of_member"
Start = Callable[..., DaemonProcess]


@pytest.fixture(scope="module")
def s3() -> Iterator[RcloneS3]:
    with RcloneS3() as running:
        for name, data in FILES.items():
            running.put("customer-x", f"secret-plan/{name}", data)
        yield running


@pytest.fixture
def hub() -> Iterator[HubStub]:
    with HubStub() as running:
        for uri in (OPEN, GATED):
            running.add_commit(uri.removeprefix("hf://"), FILES)
        running.gate("org/gated", TOKEN)
        yield running


@pytest.fixture
def start(hub: HubStub, s3: RcloneS3, reachable: DaemonProcess) -> Start:
    """The daemon has no credentials of its own."""
    reachable.config(hub_endpoint=hub.endpoint, s3_endpoint=s3.endpoint, max_age="1h")
    return reachable.start


@pytest.fixture
def owner(s3: RcloneS3) -> Callable[[DaemonProcess], Person]:
    """Who alone has keys to the bucket."""
    keys = {name: value for name, value in s3.credentials.items() if name.startswith("AWS_")}
    return lambda daemon: Person(daemon, OWNER, **keys)


Owner = Callable[[DaemonProcess], Person]


def listed(person: Person) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = person.call("GET", "/v1/snapshots")["snapshots"]
    return found


def show(person: Person, ref: str) -> dict[str, Any]:
    shown: dict[str, Any] = person.call("GET", f"/v1/snapshots/{ref}")
    return shown


def everything_told_to(person: Person, digest: str) -> str:
    verbs = ("/v1/snapshots", f"/v1/snapshots/{digest}", "/v1/leases", "/v1/status")
    return str([person.call("GET", verb) for verb in verbs])


def both(owner: Person, stranger: Person) -> Lease:
    """The same bytes from the owner's bucket, and then from where they are everybody's."""
    first, second = owner.acquire(BUCKET), stranger.acquire(OPEN)
    assert first.digest == second.digest
    return second


def test_a_strangers_ls_names_the_open_source_alone_of_bytes_that_were_first_a_bucket_s(
    start: Start, hub: HubStub, owner: Owner
) -> None:
    daemon = start()
    stranger = Person(daemon, STRANGER)
    digest = both(owner(daemon), stranger).digest
    (found,) = listed(stranger)
    commit = hub.repositories["org/open"].refs["main"]
    assert found["source"].removesuffix(f"@{commit}") == OPEN and found["revision"] == commit
    assert found["refs"] == [OPEN, f"{OPEN}@{commit}"]
    assert "secret-plan" not in everything_told_to(stranger, digest)
    (mine,) = listed(owner(daemon))
    assert mine["source"] == BUCKET and {BUCKET, OPEN} < set(mine["refs"]), "who proved it goes on hearing of it"


def test_a_name_that_may_not_be_heard_is_shown_like_one_that_nobody_fetched(start: Start, owner: Owner) -> None:
    daemon = start()
    stranger = Person(daemon, STRANGER)
    digest = both(owner(daemon), stranger).digest
    said = []
    for uri in (BUCKET, "s3://customer-x/nothing-at-all"):
        with pytest.raises(NotCached) as caught:
            show(stranger, uri)
        said.append(caught.value.message.replace(uri, "URI"))
    assert said[0] == said[1]
    assert show(stranger, OPEN)["digest"] == show(owner(daemon), BUCKET)["digest"] == digest


def test_what_others_did_with_an_open_model_is_shown_to_administrators_alone(start: Start, owner: Owner) -> None:
    daemon = start()
    stranger, root = Person(daemon, STRANGER), Person(daemon, 0)
    digest = both(owner(daemon), stranger).digest
    with owner(daemon).holding(BUCKET):
        seen, all_of_it = show(stranger, digest), show(root, digest)
        assert (seen["history"], seen["entrants"], seen["holders"]) == ([], [], [])
        assert seen["leased"], "that it stays is no secret"
        assert [each["path"] for each in seen["manifest"]] == sorted(FILES), "nor is what everybody may read"
        assert stranger.call("GET", "/v1/leases") == {"leases": []}
        assert all_of_it["source"] == BUCKET and any(BUCKET in event["why"] for event in all_of_it["history"])
        assert [each["uid"] for each in all_of_it["entrants"]] == [OWNER]
        assert OWNER in [holder["uid"] for holder in all_of_it["holders"]]
        mine = show(owner(daemon), digest)
        assert [each["uid"] for each in mine["entrants"]] == [OWNER]
        assert [(each["uid"], each["source"]) for each in mine["holders"]] == [(OWNER, BUCKET)]


def test_a_user_s_leases_are_its_own_under_a_name_that_it_may_hear(start: Start, owner: Owner) -> None:
    daemon = start()
    stranger = Person(daemon, STRANGER)
    both(owner(daemon), stranger)
    with owner(daemon).holding(BUCKET), stranger.holding(OPEN):
        (lease,) = stranger.call("GET", "/v1/leases")["leases"]
        assert lease["uid"] == STRANGER and lease["source"].startswith(OPEN) and lease["command"]
        (mine,) = owner(daemon).call("GET", "/v1/leases")["leases"]
        assert mine["uid"] == OWNER and mine["source"] == BUCKET
        everybodys = Person(daemon, 0).call("GET", "/v1/leases")["leases"]
        assert {each["uid"] for each in everybodys} == {OWNER, STRANGER}


def test_who_entered_by_one_closed_name_hears_of_no_other(start: Start, owner: Owner) -> None:
    daemon = start()
    member = Person(daemon, MEMBER, HF_TOKEN=TOKEN)
    digest = member.acquire(GATED).digest
    assert show(member, GATED)["source"] == GATED
    assert owner(daemon).acquire(BUCKET).digest == digest
    told = everything_told_to(owner(daemon), digest)
    assert "secret-plan" not in everything_told_to(member, digest) and "gated" not in told
    assert [each["digest"] for each in listed(member)] == [digest]
    with pytest.raises(NotCached):
        show(member, BUCKET)
    assert {BUCKET, GATED} < set(show(Person(daemon, 0), digest)["refs"])


def test_an_open_name_that_means_something_else_by_now_is_still_told(start: Start) -> None:
    with tempfile.TemporaryDirectory(prefix="models-") as folder:
        Path(folder, "config.json").write_bytes(b"{}")
        daemon = start(max_age=0, protocols=["file"], file_roots=[folder])
        stranger, uri = Person(daemon, STRANGER), f"file://{folder}"
        old = stranger.acquire(uri).digest
        Path(folder, "config.json").write_bytes(b"{ }")
        new = stranger.acquire(uri).digest
        assert {each["digest"]: (each["source"], each["refs"]) for each in listed(stranger)} == {
            old: (uri, []),
            new: (uri, [uri]),
        }


def test_with_access_node_everybody_hears_everything(start: Start, owner: Owner) -> None:
    daemon = start(access="node")
    stranger = Person(daemon, STRANGER)
    digest = both(owner(daemon), stranger).digest
    with owner(daemon).holding(BUCKET):
        seen, root = show(stranger, BUCKET), show(Person(daemon, 0), digest)
        assert seen == root and OWNER in [holder["uid"] for holder in seen["holders"]]
        assert listed(stranger) == listed(Person(daemon, 0))


def test_who_holds_an_open_model_can_ask_whether_it_was_damaged(start: Start, owner: Owner) -> None:
    daemon = start()
    stranger = Person(daemon, STRANGER)
    both(owner(daemon), stranger)
    with stranger.holding(OPEN) as lease:
        assert not stranger.do(lambda: stranger.client().damaged(lease))
        Path(lease.path, "config.json").unlink()
        until(lambda: stranger.do(lambda: stranger.client().damaged(lease)))
        events = show(stranger, lease.digest)["history"]
        assert {(event["what"], event["why"]) for event in events} == {("damaged", "")}
