"""Leases under pressure: whoever holds a model keeps it, whatever becomes of the daemon, and nobody else does."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cached import AllHeld, DaemonUnavailable, InUse, StoreDegraded
from tests.daemon_process import DaemonProcess
from tests.holder import Holder
from tests.waiting import until

Model = Callable[..., Path]

READ_ONLY = (
    *("unshare", "-m", "-p", "-f", "--mount-proc", "--kill-child", "sh", "-c"),
    'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"',
)
DESCRIPTORS = 96
FEW = ("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}")
OWN_PIDS = ("unshare", "-p", "-f", "--mount-proc", "--kill-child")


@pytest.fixture
def local(daemon: DaemonProcess, tmp_path: Path) -> DaemonProcess:
    """A daemon that may read the folder in which `make_model` writes, and has room for one of its models."""
    daemon.config(protocols=["file"], file_roots=[str(tmp_path / "models")])
    daemon.config(limit="150kB", high_watermark=1.0, low_watermark=1.0)
    return daemon


@pytest.fixture
def other(make_model: Model) -> str:
    """A model for which the first one has to go."""
    return f"file://{make_model('other', {'config.json': b'[]', 'w': 100_000})}"


@pytest.fixture
def uri(make_model: Model) -> str:
    return f"file://{make_model()}"


@pytest.fixture
def holder(local: DaemonProcess) -> Iterator[Holder]:
    with Holder(local.socket) as started:
        yield started


def leases(local: DaemonProcess) -> list[dict[str, Any]]:
    """What `cached leases --json` says."""
    shown = local.cli("leases", "--json")
    assert shown.returncode == 0, shown.stderr
    found: list[dict[str, Any]] = json.loads(shown.stdout)["leases"]
    return found


def assert_kept(local: DaemonProcess, uri: str, other: str) -> None:
    """Neither who needs room, nor an operator who wants some, nor one who names it, gets rid of it."""
    with local.client() as client:
        path = Path(client.path(uri).path)
        with pytest.raises(AllHeld, match="leases"):
            client.pull(other)
        assert client.call("POST", "/v1/gc", {"free": 1 << 40})["removed"] == []
        with pytest.raises(InUse, match="leased by"):
            client.call("POST", "/v1/remove", {"ref": uri})
        assert (path / "model.safetensors").stat().st_size == 100_000


def assert_free(local: DaemonProcess, path: str, other: str) -> None:
    """It goes as soon as its room is needed."""
    with local.client() as client:
        client.pull(other)
    assert not Path(path).exists()


def test_a_forked_child_that_inherits_the_lease_keeps_the_model(
    local: DaemonProcess, holder: Holder, uri: str, other: str
) -> None:
    local.start()
    path = holder.acquire(uri)["path"]
    child = holder.fork()
    holder.release()
    assert_kept(local, uri, other)
    holder.kill()
    assert_kept(local, uri, other)
    os.kill(child, signal.SIGKILL)
    until(lambda: leases(local) == [])
    assert_free(local, path, other)


def test_a_descriptor_that_was_passed_on_keeps_the_model(
    local: DaemonProcess, holder: Holder, uri: str, other: str
) -> None:
    with local.start().client() as client:
        ready = client.pull(uri)
    with Holder(local.socket) as heir:
        assert holder.ask("take", ready.lock)["taken"]
        fd = holder.give()
        heir.keep(fd)
        os.close(fd)
        holder.kill()
        assert_kept(local, uri, other)
        assert [(each["digest"], each["held"]) for each in leases(local)] == [(ready.digest, True)]
        heir.release()
        assert leases(local) == []
    assert_free(local, ready.path, other)


def test_a_container_that_sees_the_root_read_only_can_hold_a_model(local: DaemonProcess, uri: str, other: str) -> None:
    """Its own pids and mounts, and a bind mount that refuses writing: as a pod has it."""
    local.start()
    with Holder(local.socket, (*READ_ONLY, str(local.root))) as holder:
        answer = holder.acquire(uri)
        assert answer["pid"] < 10, "it is not in a pid namespace of its own"
        assert holder.ask("writable", answer["path"]) == {"writable": False}
        assert set(holder.digests()) == {"config.json", "model.safetensors"}
        assert_kept(local, uri, other)
        (held,) = leases(local)
        assert (held["source"], held["held"]) == (uri, True)
    until(lambda: leases(local) == [])
    assert_free(local, answer["path"], other)


def test_a_holder_whose_pid_the_daemon_cannot_see_is_shown_as_a_holder(
    local: DaemonProcess, holder: Holder, uri: str, other: str
) -> None:
    local.start(OWN_PIDS)
    path = holder.acquire(uri)["path"]
    assert_kept(local, uri, other)
    assert [(each["source"], each["pid"], each["held"]) for each in leases(local)] == [(uri, 0, True)]
    with local.client() as client:
        assert client.call("GET", "/v1/snapshots")["snapshots"][0]["leased"]
    holder.kill()
    assert leases(local) == []
    assert_free(local, path, other)


def test_two_thousand_leases_at_once_are_listed_kept_and_all_gone_with_their_holders(
    local: DaemonProcess, uri: str, other: str
) -> None:
    local.start()
    with ExitStack() as stack:
        holders = [stack.enter_context(Holder(local.socket)) for _ in range(20)]
        path = ""
        for holder in holders:
            path = holder.acquire(uri, 100)["path"]
        until(lambda: locks_on(path) == 2000)
        assert {each["pid"] for each in leases(local)} == {holder.process.pid for holder in holders}
        assert_kept(local, uri, other)
        for holder in holders[1:]:
            holder.kill()
        assert_kept(local, uri, other)
        assert [each["pid"] for each in leases(local)] == [holders[0].process.pid]
        holders[0].kill()
        assert leases(local) == []
        assert_free(local, path, other)


def locks_on(path: str) -> int:
    """The kernel lists them in several pages, and may leave one out when others come or go meanwhile."""
    inode = os.stat(f"{path}.locks/{os.geteuid()}").st_ino
    lines = Path("/proc/locks").read_text().splitlines()
    return sum(line.split()[1] == "FLOCK" and line.split()[5].endswith(f":{inode}") for line in lines)


def test_the_model_of_a_holder_that_was_killed_goes_at_once(
    local: DaemonProcess, holder: Holder, uri: str, other: str
) -> None:
    local.start()
    path = holder.acquire(uri)["path"]
    assert_kept(local, uri, other)
    holder.kill()
    assert_free(local, path, other)


@pytest.mark.parametrize("index", ["kept", "lost"])
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_leases_outlive_the_daemon(
    local: DaemonProcess, holder: Holder, uri: str, other: str, end: str, index: str
) -> None:
    local.start()
    answer = holder.acquire(uri)
    before = leases(local)
    assert [(each["source"], each["digest"], each["pid"], each["held"]) for each in before] == [
        (uri, answer["digest"], holder.process.pid, True)
    ]
    assert before[0]["since"] is not None
    getattr(local, end)()
    if index == "lost":
        for path in local.root.glob("index.db*"):
            path.unlink()
    local.start()
    if index == "lost":
        before[0]["since"] = None  # The kernel knows who, and only the index knew since when.
    assert leases(local) == before
    assert_kept(local, uri, other)
    assert holder.digests().keys() == {"config.json", "model.safetensors"}
    holder.release()
    assert leases(local) == []
    assert_free(local, answer["path"], other)


def test_a_daemon_without_descriptors_keeps_whom_it_has_removes_nothing_and_recovers(
    local: DaemonProcess, holder: Holder, uri: str, other: str
) -> None:
    local.start()
    local.workers()
    with local.client() as client, local.client(timeout=1.0) as late:
        path = client.pull(uri).path
        limit(local, descriptors(local))
        assert client.path(uri).hit
        with pytest.raises(StoreDegraded, match="Too many open files; check the node's limits"):
            client.pull(other)
        with pytest.raises(StoreDegraded, match="Too many open files"):
            client.call("POST", "/v1/gc", {"free": 1 << 40})
        with pytest.raises(InUse):  # Whether somebody holds it cannot be told.
            client.call("POST", "/v1/remove", {"ref": uri})
        with pytest.raises(DaemonUnavailable, match="did not answer"):
            late.path(uri)
    limit(local, 4096)
    until(lambda: local.status()["healthy"])
    assert holder.acquire(uri)["hit"]
    assert_kept(local, uri, other)
    holder.release()
    assert_free(local, path, other)
    assert 0 < local.log.read_text().count("event=connections.refused") < 60, "it tried again without a pause"


def test_more_callers_than_descriptors_are_all_answered_in_the_end(local: DaemonProcess) -> None:
    local.start(FEW)
    crowd = [connected(local) for _ in range(3 * DESCRIPTORS)]
    for each in crowd:
        each.sendall(b"GET /healthz HTTP/1.1\r\nHost: cached\r\nConnection: close\r\n\r\n")
    answers = [each.makefile("rb").read() for each in crowd]
    assert all(answer.startswith(b"HTTP/1.1 200 OK") for answer in answers)
    for each in crowd:
        each.close()


def limit(local: DaemonProcess, count: int) -> None:
    """So many descriptors and no more from now on."""
    assert local.process
    resource.prlimit(local.process.pid, resource.RLIMIT_NOFILE, (count, 4096))


def connected(local: DaemonProcess) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(30)
    client.connect(str(local.socket))
    return client


def descriptors(local: DaemonProcess) -> int:
    assert local.process
    return len(os.listdir(f"/proc/{local.process.pid}/fd"))
