"""Closed stays closed: what one caller's credentials opened is given to no other that the source would refuse."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cached import CachedError, ModelNotFound, NotCached, SourceChanged, SourceDenied, SourceUnavailable
from cached.access import Credentials
from tests.daemon_process import DaemonProcess
from tests.people import Person
from tests.servers import GuardedS3, HubStub, Moto
from tests.store.former import in_the_tables_of
from tests.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")

FILES = {"README.md": b"free", "config.json": b"{}", "model.safetensors": b"the secret weights"}
GATED, MINE = "hf://org/gated", "hf://evil/mine"
RIGHT, WRONG = "hf_right", "hf_wrong"
OWNER, OTHER = 4001, 4002
Start = Callable[..., DaemonProcess]


@pytest.fixture
def hub() -> Iterator[HubStub]:
    with HubStub() as running:
        running.add_commit("org/gated", FILES)
        running.gate("org/gated", RIGHT)
        yield running


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    with Moto() as running:
        yield running


@pytest.fixture
def s3(moto: Moto) -> Iterator[GuardedS3]:
    with GuardedS3(moto.endpoint) as guarded:
        yield guarded


@pytest.fixture
def start(hub: HubStub, reachable: DaemonProcess) -> Start:
    """The daemon has no credentials of its own."""
    reachable.config(hub_endpoint=hub.endpoint, max_age="1h", own_credentials_for=[])
    return reachable.restart


def with_token(daemon: DaemonProcess, uid: int, token: str | None = None) -> Person:
    return Person(daemon, uid, **({"HF_TOKEN": token} if token else {}))


def with_key(daemon: DaemonProcess, uid: int, key: str, **more: str) -> Person:
    return Person(daemon, uid, AWS_ACCESS_KEY_ID=key, AWS_SECRET_ACCESS_KEY="secret", **more)


def refused(call: Callable[[], object]) -> None:
    with pytest.raises(CachedError) as caught:
        call()
    assert isinstance(caught.value, SourceDenied | ModelNotFound | SourceChanged), repr(caught.value)


# The Hub: a right is a repository's.


@pytest.mark.parametrize("include", [[], ["README.md", "*.safetensors"], ["README.md", "config.json"]])
@pytest.mark.parametrize("token", [None, WRONG])
def test_what_the_hub_lets_everybody_read_opens_nothing_else(
    start: Start, token: str | None, include: list[str]
) -> None:
    daemon = start()
    path = with_token(daemon, OWNER, RIGHT).acquire(GATED).path
    other = with_token(daemon, OTHER, token)
    refused(lambda: other.acquire(GATED, include=include))
    assert not other.can_read(path)


def test_the_readme_of_a_gated_model_is_given_alone_to_whom_the_hub_gives_it(start: Start) -> None:
    daemon = start()
    with_token(daemon, OWNER, RIGHT).acquire(GATED)
    other = with_token(daemon, OTHER)
    lease = other.acquire(GATED, include=["README.md"])
    assert os.listdir(lease.path) == ["README.md"]
    refused(lambda: other.acquire(GATED))


def test_the_daemons_own_token_opens_no_more_than_a_callers(start: Start) -> None:
    daemon = start()
    daemon.environment["HF_TOKEN"] = WRONG
    start(own_credentials_for=["*"])
    path = with_token(daemon, OWNER, RIGHT).acquire(GATED).path
    refused(lambda: with_token(daemon, OTHER).acquire(GATED, include=["README.md", "*.safetensors"]))
    assert not with_token(daemon, OTHER).can_read(path)


# A digest in a listing is a claim.


def claim(hub: HubStub, weights: bytes, serves: bytes | None) -> None:
    """A repository of the thief's: its tree names the sha256 of weights that it has not."""
    if serves is None:
        hub.add_commit("evil/mine", {"config.json": b"{ }"})
        hub.point("evil/mine", "model.safetensors", hashlib.sha256(weights).hexdigest(), len(weights))
    else:
        commit = hub.add_commit("evil/mine", {"config.json": b"{ }", "model.safetensors": weights})
        hub.overwritten["evil/mine", commit, "model.safetensors"] = serves


@pytest.mark.parametrize("serves", [None, b"something as long!"], ids=["nothing", "other bytes"])
@pytest.mark.parametrize("hidden", [False, True], ids=["open", "private"])
def test_a_listing_that_names_anothers_weights_is_given_none_of_them(
    start: Start, hub: HubStub, serves: bytes | None, hidden: bool
) -> None:
    weights = FILES["model.safetensors"]
    claim(hub, weights, serves)
    if hidden:
        hub.hide("evil/mine", WRONG)
    daemon = start()
    with_token(daemon, OWNER, RIGHT).acquire(GATED)
    thief = with_token(daemon, OTHER, WRONG if hidden else None)
    refused(lambda: thief.acquire(MINE))
    digests = {name.rpartition("/")[2] for name in daemon.files("snapshots")}
    assert sum(name.endswith(".json") for name in digests) == 1 + ("config.json" in digests)


def test_a_claim_is_not_met_by_a_download_that_another_has_begun(start: Start, hub: HubStub) -> None:
    weights = os.urandom(2 << 20)
    hub.add_commit("org/gated", {"model.safetensors": weights})
    claim(hub, weights, bytes(len(weights)))
    daemon = start()
    owner, thief = with_token(daemon, OWNER, RIGHT), with_token(daemon, OTHER)
    began, caught = threading.Event(), []

    def steal() -> None:
        began.set()
        try:
            thief.acquire(MINE)
        except CachedError as error:
            caught.append(error)

    hub.pause()
    first = threading.Thread(target=owner.acquire, args=(GATED,))
    second = threading.Thread(target=steal)
    first.start()
    second.start()
    began.wait()
    until(lambda: len(daemon.status()["fills"]) == 2)
    hub.resume()
    first.join()
    second.join()
    assert len(caught) == 1
    assert owner.acquire(GATED).hit


def test_who_has_the_bytes_that_it_lists_is_given_ours(start: Start, hub: HubStub) -> None:
    weights = FILES["model.safetensors"]
    hub.add_commit("org/twin", {"config.json": b"{ }", "model.safetensors": weights})
    daemon = start()
    with_token(daemon, OWNER, RIGHT).acquire(GATED)
    before = daemon.status()["fetched_bytes"]
    lease = with_token(daemon, OTHER).acquire("hf://org/twin")
    assert Path(lease.path, "model.safetensors").read_bytes() == weights
    assert daemon.status()["fetched_bytes"] == before + len(b"{ }"), "shown, not fetched"


# Buckets: a right is one object's.


def test_one_readable_object_opens_no_other(start: Start, moto: Moto, s3: GuardedS3) -> None:
    for name in ("a/model.safetensors", "a/config.json", "b/one"):
        moto.put("team", name, name.encode())
    s3.allow("AKIAA", lists=["team/"], reads=["team/"])
    s3.allow("AKIAB", lists=["team/"], reads=["team/b/"])
    daemon = start(s3_endpoint=s3.endpoint)
    owner, other = with_key(daemon, OWNER, "AKIAA"), with_key(daemon, OTHER, "AKIAB")
    path = owner.acquire("s3://team").path
    for include in (["b/one", "a/*"], ["a/config.json"], []):
        refused(lambda: other.acquire("s3://team", include=include))  # noqa: B023
        refused(lambda: other.plan("s3://team", include=include))  # noqa: B023
    assert not other.can_read(path)
    assert os.listdir(Path(other.acquire("s3://team", include=["b/*"]).path, "b")) == ["one"]


def test_what_was_proved_is_proved_again_one_file_at_a_time_and_a_refusal_ends_it(
    start: Start, moto: Moto, s3: GuardedS3
) -> None:
    for number in range(20):
        moto.put("many", f"m/{number}", f"{number}".encode())
    for key in ("AKIAA", "AKIAB"):
        s3.allow(key, lists=["many/"], reads=["many/"])
    daemon = start(s3_endpoint=s3.endpoint)
    with_key(daemon, OWNER, "AKIAA").acquire("s3://many/m")
    other = with_key(daemon, OTHER, "AKIAB")

    def asked(call: Callable[[], object]) -> int:
        s3.requests.clear()
        call()
        return sum(key == "AKIAB" and name.startswith("many/m/") for key, _, name in s3.requests)

    assert asked(lambda: other.acquire("s3://many/m")) >= 20, "none of them was this caller's own"
    assert asked(lambda: other.acquire("s3://many/m")) == 0
    start(proof_ttl=0)
    assert asked(lambda: other.acquire("s3://many/m")) == 1
    moto.put("many", "m/7", b"another")
    start(max_age=0)
    assert asked(lambda: other.acquire("s3://many/m")) <= 4, "the one that changed, and one of the others"
    s3.allow("AKIAB", lists=["many/"], reads=["elsewhere/"])
    refused(lambda: other.acquire("s3://many/m"))
    s3.allow("AKIAB", lists=["many/"], reads=["many/"])
    assert asked(lambda: other.acquire("s3://many/m")) >= 20, "nothing stands after a refusal"


def test_who_asks_without_keys_is_given_no_object_that_is_not_public(start: Start, moto: Moto, s3: GuardedS3) -> None:
    moto.put("half", "m/card", b"public")
    moto.put("half", "m/weights", b"the private weights")
    s3.allow("AKIAA", lists=["half/"], reads=["half/"])
    s3.allow("", lists=["half/"], reads=["half/m/card"])
    daemon = start(s3_endpoint=s3.endpoint)
    path = with_key(daemon, OWNER, "AKIAA").acquire("s3://half/m").path
    other = Person(daemon, OTHER)
    for uri in ("s3://half/m", "s3://anonymous@half/m"):
        refused(lambda: other.acquire(uri))  # noqa: B023
    assert not other.can_read(path)


def test_a_plan_says_the_same_whether_others_have_brought_the_files_or_not(
    start: Start, moto: Moto, s3: GuardedS3
) -> None:
    for name in ("m/weights", *(f"m/cards/{number}" for number in range(20))):
        moto.put("planned", name, name.encode())
    s3.allow("AKIAA", lists=["planned/"], reads=["planned/"])
    s3.allow("AKIAB", lists=["planned/"], reads=["planned/m/cards/"])
    daemon = start(s3_endpoint=s3.endpoint)
    owner, other = with_key(daemon, OWNER, "AKIAA"), with_key(daemon, OTHER, "AKIAB")

    def plan() -> str:
        with pytest.raises(CachedError) as caught:
            other.plan("s3://planned/m")
        return repr(caught.value)

    absent = plan()
    owner.acquire("s3://planned/m")
    assert absent == plan()
    assert other.plan("s3://planned/m", include=["cards/*"])["fetch_bytes"] == 0
    assert owner.plan("s3://planned/m")["fetch_bytes"] == 0


def test_who_may_not_read_a_file_does_not_wait_for_anothers_download_of_it(
    start: Start, moto: Moto, s3: GuardedS3
) -> None:
    moto.put("joined", "m/card", b"card")
    moto.put("joined", "m/weights", os.urandom(3 << 20))
    s3.allow("AKIAA", lists=["joined/"], reads=["joined/"])
    s3.allow("AKIAB", lists=["joined/"], reads=["joined/m/card"])
    daemon = start(s3_endpoint=s3.endpoint)
    owner, other = with_key(daemon, OWNER, "AKIAA"), with_key(daemon, OTHER, "AKIAB")
    s3.hold("AKIAA", "joined/m/weights")
    first = threading.Thread(target=owner.acquire, args=("s3://joined/m",))
    first.start()
    until(lambda: any((who, name) == ("AKIAA", "joined/m/weights") for who, _, name in s3.requests))
    refused(lambda: other.acquire("s3://joined/m", timeout=20))
    s3.let_go()
    first.join()


# Names.


def test_a_name_means_what_it_means_to_whoever_asks(start: Start, moto: Moto, s3: GuardedS3) -> None:
    moto.put("models-of-a", "llama/weights", b"the real ones")
    moto.put("models-of-b", "llama/weights", b"with a hole!!")
    for key, bucket in (("AKIAA", "models-of-a"), ("AKIAB", "models-of-b")):
        s3.allow(key, lists=["models/"], reads=["models/"])
        s3.tenant(key, models=bucket)
    daemon = start(s3_endpoint=s3.endpoint)
    a, b = with_key(daemon, OWNER, "AKIAA"), with_key(daemon, OTHER, "AKIAB")
    theirs = b.acquire("s3://models/llama")
    ours = a.acquire("s3://models/llama")
    assert a.do(lambda: Path(ours.path, "weights").read_bytes()) == b"the real ones"
    assert not a.can_read(theirs.path) and not b.can_read(ours.path)
    for person, lease in ((a, ours), (b, theirs)):
        again = person.acquire("s3://models/llama")
        assert again.hit and again.path == lease.path
        assert person.call("GET", "/v1/snapshots/s3://models/llama")["digest"] == lease.digest
    with pytest.raises(CachedError, match="2 versions"):
        Person(daemon, 0).call("GET", "/v1/snapshots/s3://models/llama")


# A source that cannot be asked, and we who do not get round to it.


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """It takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_who_was_revoked_is_served_nothing_because_we_are_busy(start: Start, hub: HubStub) -> None:
    with silent_server() as silent:
        daemon = start(s3_endpoint=silent, workers=1, proof_ttl=0, check_timeout="1s", resolve_timeout="3s", max_age=0)
        revoked = with_token(daemon, OTHER, RIGHT)
        revoked.acquire(GATED)
        hub.gate("org/gated")
        flood = [
            threading.Thread(target=_ignore, args=(with_key(daemon, OWNER, f"AKIA{number}"), f"s3://bucket/{number}"))
            for number in range(20)
        ]
        for thread in flood:
            thread.start()
        until(lambda: len(daemon.status()["fills"]) == len(flood))
        with pytest.raises(CachedError) as caught:
            revoked.acquire(GATED)
        assert isinstance(caught.value, SourceUnavailable | SourceDenied), repr(caught.value)
        daemon.kill()
        for thread in flood:
            thread.join()


def _ignore(person: Person, uri: str) -> None:
    with contextlib.suppress(CachedError, EOFError):
        person.acquire(uri, timeout=20)


@pytest.mark.parametrize("again", [{}, {"include": ["*.json"]}, {"revision": "main"}], ids=str)
def test_a_refusal_ends_what_was_proved_there_under_every_name(
    start: Start, hub: HubStub, again: dict[str, object]
) -> None:
    """Also when what was refused is another revision, another selection, or what is not held at all."""
    daemon = start(proof_ttl="1h", max_age="1h")
    person = with_token(daemon, OWNER, RIGHT)
    first = person.acquire(GATED)
    person.acquire(GATED, revision=first.revision)
    hub.gate("org/gated")
    refused(lambda: person.acquire(GATED, **{"max_age": 0, "exclude": ["*.md"], **again}))
    hub.fail(503, times=100)
    for revision in (first.revision, None):
        with pytest.raises(CachedError):
            person.acquire(GATED, revision=revision)
    hub.reset()


def test_a_token_that_is_not_sent_makes_no_other_caller() -> None:
    both = Credentials({"HF_TOKEN": "a", "HUGGING_FACE_HUB_TOKEN": "b"})
    assert both.personal("hf") == Credentials({"HF_TOKEN": "a"}).personal("hf") == {"HF_TOKEN": "a"}


def test_the_grace_is_for_a_source_that_was_seen_to_be_down(start: Start, hub: HubStub) -> None:
    daemon = start(proof_ttl=0, check_timeout="2s", max_age=0)
    person = with_token(daemon, OWNER, RIGHT)
    person.acquire(GATED)
    hub.fail(503, times=100)
    assert person.acquire(GATED).stale
    hub.reset()
    hub.fail(429, times=100)
    with pytest.raises(SourceUnavailable):
        person.acquire(GATED)
    hub.reset()
    hub.cut()
    assert person.acquire(GATED).stale


@pytest.mark.parametrize("uri", [GATED, "s3://shut/m"])
def test_who_was_revoked_is_not_served_for_asking_only_what_is_here(
    start: Start, hub: HubStub, moto: Moto, s3: GuardedS3, uri: str
) -> None:
    moto.put("shut", "m/w", b"weights")
    s3.allow("AKIAA", lists=["shut/"], reads=["shut/"])
    daemon = start(s3_endpoint=s3.endpoint, proof_ttl=0)
    person = with_key(daemon, OWNER, "AKIAA", HF_TOKEN=RIGHT)
    person.acquire(uri)
    assert person.acquire(uri, offline=True).hit
    hub.gate("org/gated")
    s3.allow("AKIAA", lists=["shut/"], reads=["elsewhere/"])
    for _ in range(2):
        with pytest.raises(NotCached):
            person.acquire(uri, offline=True)
    hub.cut()
    with pytest.raises(NotCached):
        person.acquire(uri, offline=True)


# What a former release proved, on less.


def test_what_a_former_release_took_for_proved_opens_nothing_and_nothing_is_fetched_again(
    start: Start, hub: HubStub
) -> None:
    hub.add_commit("org/open", {**FILES, "name": b"open"})
    daemon = start()
    owner, other = with_token(daemon, OWNER, RIGHT), with_token(daemon, OTHER)
    paths = [owner.acquire(uri).path for uri in (GATED, "hf://org/open")]
    daemon.stop()

    def let_in(db: sqlite3.Connection) -> None:
        """Somebody without a token, who had proved no more than that it may read the README."""
        probe = '["hf://hub/org/gated","README.md","v",4]'
        for table in ("resolution", "snapshot"):
            db.execute(f"UPDATE {table} SET access = ? WHERE access <> 'open'", (f"own {probe}",))
        db.execute("UPDATE resolution SET seal = seal(ref, source, revision, snapshot, access)")
        db.execute("INSERT INTO proof VALUES (?, 'own', strftime('%s'))", (probe,))
        db.execute(
            "INSERT OR REPLACE INTO entrant SELECT digest, ?, 4e9 FROM snapshot WHERE access <> 'open'", (OTHER,)
        )

    in_the_tables_of("fourth", daemon.root / "index.db", let_in)
    start(own_credentials_for=["*"])
    assert not other.can_read(paths[0]) and other.can_read(paths[1])
    refused(lambda: other.acquire(GATED))
    hub.reset()
    assert other.acquire("hf://org/open").path == paths[1]
    assert hub.requests == [], "what is open to all stays so"
    assert owner.acquire(GATED).path == paths[0]
    assert daemon.status()["fetched_bytes"] == 0


# What asking tells.


@pytest.mark.parametrize("uri", [GATED, "s3://closed/m"])
def test_a_refusal_costs_the_source_the_same_whether_we_hold_it_or_not(
    start: Start, hub: HubStub, moto: Moto, s3: GuardedS3, uri: str
) -> None:
    for number in range(12):
        moto.put("closed", f"m/{number}", b"x" * (number + 1))  # An empty one is proved in another way.
    s3.allow("AKIAA", lists=["closed/"], reads=["closed/"])
    numbers = itertools.count()
    for number in range(9):
        s3.allow(f"AKIAB{number}", lists=["closed/"], reads=["elsewhere/"])
    daemon = start(s3_endpoint=s3.endpoint, workers=1)

    def asked() -> list[tuple[str, str]]:
        hub.reset()
        s3.requests.clear()
        other = with_key(daemon, OTHER, f"AKIAB{next(numbers)}", HF_TOKEN=f"{WRONG}{next(numbers)}")
        refused(lambda: other.acquire(uri))
        seen = [(each.method, each.path) for each in hub.requests]
        return seen + [(method, name.partition("/")[0]) for key, method, name in s3.requests if key != "AKIAA"]

    absent = asked()
    with_key(daemon, OWNER, "AKIAA", HF_TOKEN=RIGHT).acquire(uri)
    assert asked() == absent
