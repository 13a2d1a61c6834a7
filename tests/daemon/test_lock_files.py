"""What one user locks is its own affair: it keeps nobody from leasing, and no more than its share from eviction."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cached import AllHeld, InUse, Lease, NotCached
from cached.client import client as clients
from cached.client.lease import pauses
from tests.daemon_process import DaemonProcess
from tests.people import Person

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")

WORKER, STRANGER, THIRD = 4001, 4002, 4003
SIZE = 100_000
Models = Callable[[int], list[str]]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where every user can come to."""
    with tempfile.TemporaryDirectory(prefix="cached-locks-") as place:
        Path(place).chmod(0o755)
        yield Path(place)


@pytest.fixture
def daemon(folder: Path) -> Iterator[DaemonProcess]:
    """With room for three models, which every user can reach."""
    process = DaemonProcess(
        folder / "daemon",
        socket_mode="0666",
        protocols=["file"],
        file_roots=[str(folder / "models")],
        limit="350kB",
        high_watermark=1.0,
        low_watermark=1.0,
    )
    process.socket.parent.chmod(0o755)
    yield process
    process.close()


@pytest.fixture
def models(folder: Path) -> Models:
    def make(count: int) -> list[str]:
        for number in range(count):
            place = folder / "models" / str(number)
            place.mkdir(parents=True)
            (place / "config.json").write_bytes(b"{}")
            (place / "model.safetensors").write_bytes(os.urandom(SIZE))
        return [f"file://{folder}/models/{number}" for number in range(count)]

    return make


def everything_lockable(snapshots: Path, how: int) -> list[int]:
    """Descriptors of all that this process can open and lock there, by whatever name it could know or guess."""
    held = []
    for digest in {name[:64] for name in NAMES}:
        guesses = [f"{digest}.json", f"{digest}.locks", digest]
        guesses += [f"{digest}.locks/{name}" for name in ("shared", "before", WORKER, STRANGER, THIRD, 0)]
        for guess in guesses:
            try:
                fd = os.open(snapshots / guess, os.O_RDONLY | os.O_NONBLOCK)
                fcntl.flock(fd, how | fcntl.LOCK_NB)
            except OSError:
                continue
            held.append(fd)
    return held


NAMES: set[str] = set()  # Of all models: whoever leased them has heard them.


@pytest.fixture(autouse=True)
def names() -> Iterator[None]:
    NAMES.clear()
    yield


def seen(lease: Lease) -> Lease:
    NAMES.add(Path(lease.path).name)
    return lease


def test_a_user_is_handed_a_lock_file_that_no_other_can_open(daemon: DaemonProcess, models: Models) -> None:
    daemon.start()
    (uri,) = models(1)
    worker, stranger = Person(daemon, WORKER), Person(daemon, STRANGER)
    mine, theirs = worker.acquire(uri), stranger.acquire(uri)
    assert mine.path == theirs.path and mine.lock_file != theirs.lock_file
    assert mine.lock_file == f"{mine.path}.locks/{WORKER}"
    assert stranger.can_open(theirs.lock_file) and not stranger.can_open(mine.lock_file)
    assert not stranger.can_open(f"{mine.path}.json"), "the manifest is the daemon's alone"
    assert not stranger.do(lambda: os.access(theirs.lock_file, os.W_OK))
    with pytest.raises(PermissionError):
        stranger.do(lambda: os.chmod(theirs.lock_file, 0o666))
    with pytest.raises(PermissionError):
        stranger.do(lambda: os.listdir(f"{mine.path}.locks"))


def test_exclusive_locks_of_a_stranger_keep_nobody_from_leasing(daemon: DaemonProcess, models: Models) -> None:
    daemon.start()
    (uri,) = models(1)
    worker, stranger = Person(daemon, WORKER), Person(daemon, STRANGER)
    for person in (worker, stranger):
        seen(person.acquire(uri))
    with stranger.keeping(lambda: everything_lockable(daemon.root / "snapshots", fcntl.LOCK_EX)):
        assert worker.acquire(uri, timeout=5).hit


def test_exclusive_locks_of_a_stranger_keep_nothing_from_eviction_once_it_holds_more_than_its_share(
    daemon: DaemonProcess, models: Models
) -> None:
    daemon.start(max_leases_per_user=1, user_share=1)
    uris = models(5)
    worker, stranger = Person(daemon, WORKER), Person(daemon, STRANGER)
    with worker.holding(uris[0]) as lease:
        seen(lease)
        for uri in uris[:3]:
            seen(stranger.acquire(uri))
        with stranger.keeping(lambda: everything_lockable(daemon.root / "snapshots", fcntl.LOCK_SH)):
            # Of the two that the stranger alone holds, one stays its own.
            assert worker.acquire(uris[3], timeout=20).path
            with daemon.client() as client:
                left = {each["source"] for each in client.call("GET", "/v1/snapshots")["snapshots"]}
            assert {uris[0], uris[3]} < left and len(left) == 3
            assert worker.can_read(lease.path), "what the worker holds stays"
        assert "lease.unprotected" in daemon.log.read_text()


def test_within_its_share_a_users_leases_keep_what_it_uses(daemon: DaemonProcess, models: Models) -> None:
    daemon.start(max_leases_per_user=3)
    uris = models(4)
    worker, other = Person(daemon, WORKER), Person(daemon, STRANGER)
    with worker.holding(uris[0]), worker.holding(uris[1]), worker.holding(uris[2]), pytest.raises(AllHeld):
        other.acquire(uris[3])
    assert other.acquire(uris[3]).path


def test_it_can_be_told_whose_a_lease_is_though_its_process_cannot_be_seen(
    daemon: DaemonProcess, models: Models
) -> None:
    daemon.start(("unshare", "-p", "-f", "--mount-proc", "--kill-child"))
    (uri,) = models(1)
    with Person(daemon, WORKER).holding(uri):
        with daemon.client() as client:
            found = client.call("GET", "/v1/leases")["leases"]
            assert [(each["source"], each["pid"], each["uid"]) for each in found] == [(uri, 0, WORKER)]
            with pytest.raises(InUse, match=f"is leased by a process of user {WORKER}; stop it first"):
                client.call("POST", "/v1/remove", {"ref": uri})
        mine = Person(daemon, WORKER).call("GET", "/v1/leases")["leases"]
        assert [each["source"] for each in mine] == [uri]
        assert Person(daemon, STRANGER).call("GET", "/v1/leases")["leases"] == []


def test_a_client_that_cannot_lease_waits_for_a_bounded_time_and_says_who_is_in_the_way(
    daemon: DaemonProcess, models: Models
) -> None:
    """One that locks its user's own file exclusively, say: no eviction takes that long."""
    daemon.start()
    (uri,) = models(1)
    worker = Person(daemon, WORKER)
    seen(worker.acquire(uri))
    before = daemon.status()["hits"]
    who = rf"could not be held: .* \(pid \d+\) of user {WORKER} holds its lock"
    locked = worker.keeping(lambda: everything_lockable(daemon.root / "snapshots", fcntl.LOCK_EX))
    with locked, pytest.raises(NotCached, match=who):
        worker.acquire(uri, timeout=2)
    assert daemon.status()["hits"] - before < 100, "it asks again and again without a pause"
    assert worker.acquire(uri).hit


def test_without_a_time_of_the_callers_it_is_tried_for_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= clients.LEASE_SECONDS <= 30
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", sleep)
    tries = len(list(pauses(clients.LEASE_SECONDS)))
    assert 30 < tries < 150 and max(slept) < 0.16 and slept[0] < 0.002
    assert len(set(slept[-20:])) > 1, "those that wait for the same come back together"


def test_what_is_held_when_the_daemon_is_upgraded_stays_and_goes_when_it_is_let_go(
    daemon: DaemonProcess, models: Models
) -> None:
    daemon.start()
    uris = models(4)
    worker = Person(daemon, WORKER)
    snapshots = daemon.root / "snapshots"
    names = [seen(worker.acquire(uri)).path for uri in uris[:3]]
    daemon.stop()
    (daemon.root / "FORMAT").unlink()
    (daemon.root / "FORMAT").write_text("1\n")
    for name in names:
        os.chmod(f"{name}.json", 0o444)  # As the daemon of layout 1 left it, with which the client took its lease.
    with worker.keeping(lambda: everything_lockable(snapshots, fcntl.LOCK_SH)):
        daemon.start(max_leases_per_user=1, user_share=1)
        other = Person(daemon, THIRD)
        with pytest.raises(AllHeld):
            other.acquire(uris[3])
        assert not other.can_open(f"{names[0]}.json") and not other.can_open(f"{names[0]}.locks/before")
        assert worker.acquire(uris[0]).lock_file == f"{names[0]}.locks/{WORKER}"
        daemon.stop()
        daemon.start()
        with pytest.raises(AllHeld):
            other.acquire(uris[3])
    assert other.acquire(uris[3]).path


def test_on_a_root_that_cannot_be_written_to_a_lease_is_taken_on_the_directory(
    daemon: DaemonProcess, models: Models
) -> None:
    daemon.start()
    (uri,) = models(1)
    seen(Person(daemon, WORKER).acquire(uri))
    daemon.stop()
    mounts = ("unshare", "-m", "sh", "-c", 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"')
    daemon.start((*mounts, str(daemon.root)))
    lease = Person(daemon, THIRD).acquire(uri)
    assert lease.hit and lease.lock_file == lease.path


def test_a_lock_file_that_somebody_removed_is_made_again(daemon: DaemonProcess, models: Models) -> None:
    daemon.start()
    (uri,) = models(1)
    worker = Person(daemon, WORKER)
    os.unlink(worker.acquire(uri).lock_file)
    assert os.path.exists(worker.acquire(uri).lock_file)
