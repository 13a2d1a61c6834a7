"""Whose model it is: callers prove that the source would give it to them, and the kernel lets in whoever did."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cached import CachedError, NotCached, SourceDenied, SourceUnavailable
from cached.client.lease import take
from tests.daemon_process import DaemonProcess
from tests.people import Person
from tests.servers import HubStub, RcloneS3
from tests.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")

FILES = {"config.json": b"{}", "model.safetensors": b"weights", "deep/er/file": b"more"}
OPEN, GATED, PRIVATE = "hf://org/open", "hf://org/gated", "hf://org/private"
RIGHT, WRONG = "hf_right", "hf_wrong"
Start = Callable[..., DaemonProcess]
Someone = Callable[..., Person]


@pytest.fixture
def hub() -> Iterator[HubStub]:
    with HubStub() as running:
        for uri in (OPEN, GATED, PRIVATE):
            running.add_commit(uri.removeprefix("hf://"), {**FILES, "name": uri.encode()})
        running.gate("org/gated", RIGHT, "hf_of_daemon")
        running.hide("org/private", RIGHT)
        yield running


@pytest.fixture
def start(hub: HubStub, reachable: DaemonProcess) -> Start:
    reachable.config(hub_endpoint=hub.endpoint, max_age="1h")
    return reachable.restart


def someone(daemon: DaemonProcess, uid: int, token: str | None = None) -> Person:
    return Person(daemon, uid, **({"HF_TOKEN": token} if token else {}))


@pytest.mark.parametrize("uri", [GATED, PRIVATE])
def test_a_model_that_one_caller_opened_is_not_handed_to_a_caller_without_access(start: Start, uri: str) -> None:
    daemon = start()
    granted, stranger, nobody = someone(daemon, 4001, RIGHT), someone(daemon, 4002, WRONG), someone(daemon, 4003)
    lease = granted.acquire(uri)
    for other in (stranger, nobody):
        with pytest.raises(SourceDenied, match="or you may not read it"):
            other.acquire(uri)
        with pytest.raises(NotCached):
            other.acquire(uri, offline=True)
        assert not other.can_read(lease.path)
    assert granted.can_read(lease.path)
    assert not granted.can_read(str(daemon.root / "blobs"))
    shown = someone(daemon, 0).call("GET", f"/v1/snapshots/{lease.digest}")
    assert shown["access"] == "caller" and [each["uid"] for each in shown["entrants"]] == [4001]
    assert granted.acquire(uri).hit


def test_who_may_not_read_it_cannot_tell_a_held_model_from_an_absent_one(start: Start) -> None:
    daemon = start()
    stranger = someone(daemon, 4002, WRONG)
    someone(daemon, 4001, RIGHT).acquire(PRIVATE)

    def answer(call: Callable[[], object], name: str) -> tuple[str, str]:
        with pytest.raises(CachedError) as caught:
            call()
        return caught.value.code, caught.value.message.replace(name, "NAME")

    for options in ({}, {"offline": True}):
        held = answer(lambda: stranger.acquire(PRIVATE, **options), "org/private")  # noqa: B023
        assert held == answer(lambda: stranger.acquire("hf://org/absent", **options), "org/absent")  # noqa: B023
    for ask in (
        lambda uri: stranger.call("GET", f"/v1/snapshots/{uri}"),
        lambda uri: stranger.plan(uri),
        lambda uri: stranger.plan(uri, offline=True),
    ):
        held, absent = (answer(lambda: ask(uri), uri.removeprefix("hf://")) for uri in (PRIVATE, "hf://org/absent"))  # noqa: B023
        assert held == absent
    assert stranger.call("GET", "/v1/snapshots") == {"snapshots": []}
    assert stranger.call("GET", "/v1/leases") == {"leases": []}
    assert "said" in daemon.log.read_text(), "the operator's log tells them apart"


def test_everybody_is_given_an_open_model_without_proof(start: Start, hub: HubStub) -> None:
    daemon = start()
    path = someone(daemon, 4001, RIGHT).acquire(OPEN).path
    hub.reset()
    for caller in (someone(daemon, 4002), someone(daemon, 4003, WRONG)):
        assert caller.acquire(OPEN).hit
    assert someone(daemon, 4004).can_read(path)
    assert hub.requests == []


def test_a_proof_is_one_head_of_a_file_and_is_remembered_for_its_time(start: Start, hub: HubStub) -> None:
    daemon = start(proof_ttl="1h")
    someone(daemon, 4001, RIGHT).acquire(GATED)
    hub.reset()
    for uid in (4001, 4002):  # The same token opens it, whoever shows it.
        assert someone(daemon, uid, RIGHT).acquire(GATED).hit
    assert hub.requests == []
    start(proof_ttl=0)
    assert someone(daemon, 4001, RIGHT).acquire(GATED).hit
    (seen,) = hub.requests
    assert seen.method == "HEAD" and "/resolve/" in seen.path and seen.headers["authorization"] == f"Bearer {RIGHT}"


def test_a_proof_survives_a_restart_and_no_token_is_written_anywhere(start: Start, hub: HubStub) -> None:
    daemon = start(proof_ttl="1h")
    someone(daemon, 4001, RIGHT).acquire(GATED)
    start()
    hub.cut()
    assert someone(daemon, 4001, RIGHT).acquire(GATED).hit
    daemon.stop()
    written = b"".join(path.read_bytes() for path in daemon.root.rglob("*") if path.is_file())
    assert RIGHT.encode() not in written + daemon.log.read_bytes()


def test_while_the_source_is_down_only_those_are_served_who_proved_it_within_the_grace(
    start: Start, hub: HubStub
) -> None:
    daemon = start(proof_ttl=0, check_timeout="2s")
    someone(daemon, 4001, RIGHT).acquire(GATED)
    hub.cut()
    served = someone(daemon, 4001, RIGHT).acquire(GATED)
    assert served.hit and served.stale
    assert someone(daemon, 4001, RIGHT).acquire(GATED, offline=True).hit
    with pytest.raises(SourceUnavailable):
        someone(daemon, 4002, WRONG).acquire(GATED)
    start(proof_grace=0)
    with pytest.raises(SourceUnavailable):
        someone(daemon, 4001, RIGHT).acquire(GATED)
    with pytest.raises(NotCached):
        someone(daemon, 4001, RIGHT).acquire(GATED, offline=True)


def test_a_token_that_lost_its_access_is_refused_and_its_user_shut_out_when_it_holds_no_lease(
    start: Start, hub: HubStub
) -> None:
    daemon = start(proof_ttl=0)
    granted = someone(daemon, 4001, RIGHT)
    with granted.holding(GATED) as lease:
        hub.gate("org/gated")
        with pytest.raises(SourceDenied):
            granted.acquire(GATED)
        assert granted.can_read(lease.path), "the replica that runs keeps what it holds"
    assert granted.can_read(lease.path), "so could a replica that has been told the path and takes its lease now"
    daemon.stop()
    with contextlib.closing(sqlite3.connect(daemon.root / "index.db")) as index, index:
        index.execute("UPDATE entrant SET until = until - 60")  # As if a minute had gone by.
    start(proof_ttl=0)
    until(lambda: not granted.can_read(lease.path), 60)
    hub.gate("org/gated", RIGHT)
    assert granted.acquire(GATED).hit
    assert granted.can_read(lease.path)


def test_a_replica_without_a_token_does_not_shut_out_another_of_its_uid_that_was_just_told_the_path(
    start: Start,
) -> None:
    daemon = start()
    told, other = someone(daemon, 4001, RIGHT), someone(daemon, 4001)
    lease = told.acquire(GATED)
    with pytest.raises(SourceDenied):
        other.acquire(GATED)
    assert told.can_read(lease.path)
    assert told.do(lambda: take(lease.lock_file)) is not None


def test_what_a_lost_index_knew_of_entrants_is_read_from_the_disk(start: Start) -> None:
    daemon = start(proof_ttl="1h")
    granted, stranger = someone(daemon, 4001, RIGHT), someone(daemon, 4002, WRONG)
    with granted.holding(GATED) as lease:
        daemon.kill()
        for name in ("index.db", "index.db-wal", "index.db-shm"):
            (daemon.root / name).unlink(missing_ok=True)
        start()
        assert granted.can_read(lease.path)
        assert not stranger.can_read(lease.path)
        with pytest.raises(SourceDenied):
            stranger.acquire(GATED)
        assert granted.acquire(GATED).path == lease.path


def test_the_daemons_own_token_serves_those_whom_the_config_names(start: Start, hub: HubStub) -> None:
    daemon = start()
    daemon.environment["HF_TOKEN"] = "hf_of_daemon"
    start(own_credentials_for=["4001"])
    named, other = someone(daemon, 4001), someone(daemon, 4002)
    path = named.acquire(GATED).path
    hub.reset()
    with pytest.raises(SourceDenied):
        other.acquire(GATED)
    assert not any("hf_of_daemon" in seen.headers.get("authorization", "") for seen in hub.requests)
    assert not other.can_read(path)
    assert other.acquire(OPEN).path  # For which nobody's token is needed.
    start(proof_ttl=0, check_timeout="10s")
    with pytest.raises(SourceDenied):
        other.acquire(GATED)
    hub.cut()
    assert named.acquire(GATED).stale, "that another was refused says nothing of it"
    hub.restore()
    start(own_credentials_for=["*"])
    assert other.acquire(GATED).hit
    assert other.can_read(path)


def test_a_model_that_closes_keeps_who_leases_it_or_was_told_its_path_just_now(start: Start, hub: HubStub) -> None:
    daemon = start()
    daemon.environment["HF_TOKEN"] = "hf_of_daemon"
    start(own_credentials_for=["*"], proof_ttl=0)
    holder, told, stranger = (someone(daemon, uid) for uid in (4001, 4002, 4003))
    with holder.holding(GATED) as lease:
        assert stranger.can_read(lease.path)
        assert told.acquire(GATED).path == lease.path
        hub.gate("org/gated", RIGHT)
        with pytest.raises(SourceDenied):
            stranger.acquire(GATED)
        assert not stranger.can_read(lease.path)
        assert holder.can_read(lease.path) and told.can_read(lease.path)


def test_a_second_source_of_the_same_bytes_opens_them_only_to_whom_it_lets_in(start: Start, hub: HubStub) -> None:
    hub.add_commit("org/mirror", {**FILES, "name": GATED.encode()}, keep=False)
    hub.gate("org/mirror", WRONG)
    daemon = start(proof_ttl="1h")
    granted, other = someone(daemon, 4001, RIGHT), someone(daemon, 4002, WRONG)
    path = granted.acquire(GATED).path
    with pytest.raises(SourceDenied):
        other.acquire(GATED)
    assert other.acquire("hf://org/mirror").path == path
    with pytest.raises(SourceDenied):
        other.acquire(GATED)


def test_keys_of_a_bucket_are_proved_for_each_caller(start: Start) -> None:
    with RcloneS3() as s3:
        s3.put("models", "m/config.json", b"{}")
        daemon = start(s3_endpoint=s3.endpoint)
        keys = {name: value for name, value in s3.credentials.items() if name.startswith("AWS_")}
        granted = Person(daemon, 4001, **keys)
        stranger = Person(daemon, 4002, **{**keys, "AWS_SECRET_ACCESS_KEY": "wrong"})
        path = granted.acquire("s3://models/m").path
        for caller in (stranger, Person(daemon, 4003), Person(daemon, 4002, AWS_SESSION_TOKEN="x")):
            with pytest.raises(SourceDenied):
                caller.acquire("s3://models/m")
            assert not caller.can_read(path)


def test_with_access_node_a_model_is_everybodys(start: Start) -> None:
    daemon = start(access="node")
    path = someone(daemon, 4001, RIGHT).acquire(GATED).path
    assert someone(daemon, 4002).acquire(GATED).hit
    assert someone(daemon, 4003).can_read(path)
    start(access="caller")
    assert not someone(daemon, 4003).can_read(path)
    with pytest.raises(SourceDenied):
        someone(daemon, 4002).acquire(GATED)


def test_callers_with_other_tokens_share_downloads_but_no_answer(start: Start, hub: HubStub) -> None:
    daemon = start()
    hub.gate("org/gated", RIGHT, "hf_also_right")
    hub.pause()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(someone(daemon, 4001, RIGHT).acquire, GATED)
        second = pool.submit(someone(daemon, 4002, "hf_also_right").acquire, GATED)
        stranger = pool.submit(someone(daemon, 4003, WRONG).acquire, GATED)
        try:
            until(lambda: len(daemon.status()["fills"]) == 3)
            assert someone(daemon, 4009).call("GET", "/v1/status")["fills"] == []
        finally:
            hub.resume()
        with pytest.raises(SourceDenied):
            stranger.result()
        assert first.result().path == second.result().path
    assert sum(hub.file_bytes.values()) == sum(len(data) for data in (*FILES.values(), GATED.encode()))
