"""A disk that is full, fails, or is one of several: what is there is served, what cannot be is refused and said."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cached import NoSpace, StoreDegraded
from tests.daemon_process import DaemonProcess
from tests.servers.disk import SmallDisk
from tests.tampering import injecting
from tests.threads import in_background
from tests.waiting import until

Model = Callable[..., Path]

MIB = 1 << 20
FAILED = re.compile(
    r"(Read-only file system|Input/output error|disk I/O error)\. Check the disk, then restart cached\."
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with SmallDisk(tmp_path / "small") as disk:
        yield disk


@pytest.fixture
def local(disk: SmallDisk, daemon: DaemonProcess, tmp_path: Path) -> DaemonProcess:
    """Its root is on the small disk."""
    daemon.root = disk.path / "root"
    daemon.config(protocols=["file"], file_roots=[str(tmp_path / "models")], self_heal=False)
    return daemon


def healthz(local: DaemonProcess) -> tuple[int, str]:
    """Status and text."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(30)
        probe.connect(str(local.socket))
        probe.sendall(b"GET /healthz HTTP/1.1\r\nHost: cached\r\nConnection: close\r\n\r\n")
        head, _, text = probe.makefile("rb").read().decode().partition("\r\n\r\n")
    return int(head.split()[1]), text


def doctor(local: DaemonProcess) -> dict[str, str]:
    """What failed, by check."""
    shown = local.cli("doctor", "--json", "--config", str(local.config()))
    failed = {check["name"]: check["detail"] for check in json.loads(shown.stdout) if check["status"] == "fail"}
    assert shown.returncode == (1 if failed else 0)
    return failed


def assert_one_sentence(message: str) -> None:
    assert message.endswith(".") and message.count(". ") == 0, message


def assert_nothing_stray(local: DaemonProcess) -> None:
    """Right now, without a restart: what is accounted for is what lies there, and all of it can go."""
    assert local.files("ingest", "trash", "quarantine") == []
    on_disk = sum((local.root / name).stat().st_size for name in local.files("blobs"))
    status = local.status()
    assert (status["used"], status["reserved"]) == (on_disk, 0)

    def all_gone() -> bool:  # What a full disk did not take is written down a moment later.
        with local.client() as client:
            client.call("POST", "/v1/gc", {"free": 1 << 40})
        return local.files() == []

    until(all_gone)


def weights(count: int, size: int) -> dict[str, int | bytes]:
    return {"config.json": b"{}", **{f"model-{number}.safetensors": size for number in range(count)}}


@pytest.mark.parametrize("what", ["filled", "without_inodes"])
def test_a_full_disk_refuses_what_is_new_serves_what_is_there_and_takes_again_when_there_is_room(
    local: DaemonProcess, disk: SmallDisk, make_model: Model, what: str
) -> None:
    held, new = make_model("held", weights(1, 2 * MIB)), make_model("new", weights(4, 2 * MIB))
    with local.start().client() as client:
        lease = client.acquire(f"file://{held}")
        with getattr(disk, what)():
            with pytest.raises(NoSpace) as refused:
                client.pull(f"file://{new}")
            assert_one_sentence(refused.value.message)
            assert client.pull(f"file://{held}", max_age=0).hit
            assert (Path(lease.path) / "model-0.safetensors").read_bytes() == (
                held / "model-0.safetensors"
            ).read_bytes()
            assert local.status()["healthy"]
            assert healthz(local) == (200, "ok\n")
        ready = client.pull(f"file://{new}")
        assert not ready.hit
        assert (Path(ready.path) / "model-3.safetensors").read_bytes() == (new / "model-3.safetensors").read_bytes()
        lease.release()
    assert_nothing_stray(local)


@pytest.mark.parametrize("what", ["filled", "without_inodes"])
def test_a_disk_that_fills_up_while_a_model_is_fetched_fails_that_and_nothing_else(
    local: DaemonProcess, disk: SmallDisk, make_model: Model, what: str
) -> None:
    held, new = make_model("held", weights(1, 2 * MIB)), make_model("new", weights(12, 2 * MIB))
    local.start(bandwidth="8MiB", connections=1, min_connections=1)
    with local.client() as client, ExitStack() as trouble:
        lease = client.acquire(f"file://{held}")
        come: list[int] = []
        with in_background(
            lambda: local.client().pull(f"file://{new}", progress=lambda p: come.append(p.done_bytes))
        ) as fill:
            until(lambda: bool(come) and come[-1] > 0)
            trouble.enter_context(getattr(disk, what)())
            with pytest.raises(NoSpace) as refused:
                fill.result(60)
        assert_one_sentence(refused.value.message)
        assert client.path(f"file://{held}").hit
        assert local.status()["healthy"]
        trouble.close()
        ready = local.client().pull(f"file://{new}")
        assert sorted(path.name for path in Path(ready.path).iterdir()) == sorted(weights(12, 0))
        lease.release()
    assert_nothing_stray(local)


@pytest.fixture
def systemd(local: DaemonProcess) -> Iterator[socket.socket]:
    """What the daemon's NOTIFY_SOCKET leads to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        address = str(local.socket.with_name("n"))
        listener.bind(address)
        listener.settimeout(30)
        local.environment["NOTIFY_SOCKET"] = address
        yield listener


def said(systemd: socket.socket) -> str:
    """The next status text."""
    while True:
        for line in systemd.recv(4096).decode().splitlines():
            if line.startswith("STATUS="):
                return line


def assert_degraded(local: DaemonProcess, reason: str) -> None:
    """Everywhere that an operator looks, with the reason."""
    status = local.status()
    assert not status["healthy"]
    assert reason in status["reason"]
    code, text = healthz(local)
    assert code == 503
    assert reason in text
    assert reason in doctor(local)["daemon"]
    shown = local.cli("status")
    assert reason in shown.stdout


def test_a_disk_that_fails_is_served_from_and_not_written_to_until_it_was_mended(
    local: DaemonProcess, disk: SmallDisk, make_model: Model, systemd: socket.socket
) -> None:
    held, moved = make_model("held"), make_model("moved", {"config.json": b"{}"})
    new = make_model("new")
    with local.start().client() as client:
        assert said(systemd) == f"STATUS=serving {local.root}"
        path = client.pull(f"file://{held}").path
        old = client.pull(f"file://{moved}")
        disk.fail()
        assert client.pull(f"file://{held}").hit
        with pytest.raises(StoreDegraded) as refused:
            client.pull(f"file://{new}")
        reason = refused.value.message
        assert FAILED.search(reason)
        degraded = said(systemd)
        assert degraded.startswith("STATUS=degraded: ") and reason in degraded
        assert_degraded(local, reason)
        for verb, body in [("gc", {"free": 1}), ("remove", {"ref": f"file://{held}"})]:
            with pytest.raises(StoreDegraded, match=re.escape(reason)):
                client.call("POST", f"/v1/{verb}", body)

        again = client.acquire(f"file://{held}", max_age=0)
        assert (again.hit, again.stale, again.path) == (True, False, path), "a moving name that has not moved"
        (moved / "config.json").write_bytes(b"[]")
        stale = client.pull(f"file://{moved}", max_age=0)
        assert (stale.hit, stale.stale, stale.digest) == (True, True, old.digest), "old is better than nothing"
        assert [lease["digest"] for lease in client.call("GET", "/v1/leases")["leases"]] == [again.digest]
        again.release()
    local.stop()
    disk.mend()
    with local.start().client() as client:
        assert local.status()["healthy"]
        assert healthz(local) == (200, "ok\n")
        assert "daemon" not in doctor(local)
        assert client.path(f"file://{held}").path == path
        assert not client.pull(f"file://{new}").hit
        assert client.pull(f"file://{moved}", max_age=0).digest != old.digest
    assert_nothing_stray(local)


@pytest.mark.parametrize("who", ["worker", "daemon"])
def test_an_fsync_that_fails_fails_the_fill_and_degrades_the_disk(
    local: DaemonProcess, make_model: Model, who: str
) -> None:
    held, new = make_model("held"), make_model("new")
    with local.start().client() as client:
        client.pull(f"file://{held}")
        assert local.process
        pids = local.workers() if who == "worker" else [local.process.pid]
        with injecting("fsync,fdatasync:error=EIO", pids), pytest.raises(StoreDegraded, match=FAILED) as refused:
            client.pull(f"file://{new}")
        assert_degraded(local, refused.value.message)
        with pytest.raises(StoreDegraded, match=FAILED):
            client.pull(f"file://{new}")  # The disk takes it again, and is not believed.
        assert client.pull(f"file://{held}").hit
    local.stop()
    with local.start().client() as client:
        assert local.status()["healthy"]
        ready = client.pull(f"file://{new}")
        assert (Path(ready.path) / "model.safetensors").read_bytes() == (new / "model.safetensors").read_bytes()
    assert_nothing_stray(local)


@pytest.fixture
def roots(local: DaemonProcess, disk: SmallDisk, tmp_path: Path) -> tuple[Path, Path]:
    """Two of them: one on the disk of pytest's folder, and the small one, with as much room on either."""
    places = local.folder / "first", disk.path / "second"
    local.config(roots=[str(place) for place in places], limit="20MiB", high_watermark=1.0, low_watermark=1.0)
    return places


def root_of(path: str, roots: tuple[Path, Path]) -> int:
    (found,) = [number for number, root in enumerate(roots) if path.startswith(f"{root}/")]
    return found


def test_a_model_goes_to_the_root_with_most_room_and_lies_whole_there(
    local: DaemonProcess, roots: tuple[Path, Path], make_model: Model
) -> None:
    models = [make_model(f"m{number}", weights(3, MIB)) for number in range(4)]
    with local.start().client() as client:
        paths = [client.pull(f"file://{model}").path for model in models]
        assert sorted(root_of(path, roots) for path in paths) == [0, 0, 1, 1]
        for path, model in zip(paths, models, strict=True):
            root = roots[root_of(path, roots)]
            blobs = {file.stat().st_ino for file in (root / "blobs").rglob("*") if file.is_file()}
            assert {file.stat().st_ino for file in Path(path).iterdir()} <= blobs
            assert client.path(f"file://{model}").path == path
        free = [root["limit"] - root["used"] for root in local.status()["roots"]]
        assert abs(free[0] - free[1]) < MIB


def test_a_model_goes_where_most_of_its_bytes_are(
    local: DaemonProcess, roots: tuple[Path, Path], make_model: Model
) -> None:
    model = make_model("model", weights(4, MIB))
    with local.start().client() as client:
        part = client.pull(f"file://{model}", exclude=["model-3.*"])
        place = root_of(part.path, roots)
        whole = client.pull(f"file://{model}")
        assert root_of(whole.path, roots) == place, "the other has more room, and none of its bytes"
        assert os.stat(f"{whole.path}/model-0.safetensors").st_ino == os.stat(f"{part.path}/model-0.safetensors").st_ino
        assert root_of(client.pull(f"file://{make_model('other', weights(1, MIB))}").path, roots) == 1 - place


def test_a_root_that_fails_leaves_the_others_to_take_what_is_new_and_serves_what_it_has(
    local: DaemonProcess, disk: SmallDisk, roots: tuple[Path, Path], make_model: Model, systemd: socket.socket
) -> None:
    models = [make_model(f"m{number}", weights(1, MIB)) for number in range(2)]
    with local.start().client() as client:
        assert said(systemd) == f"STATUS=serving {roots[0]}, {roots[1]}"
        placed = {root_of(ready.path, roots): ready for ready in (client.pull(f"file://{model}") for model in models)}
        assert sorted(placed) == [0, 1]
        disk.fail()
        new = [client.pull(f"file://{make_model(f'n{number}', weights(1, MIB))}") for number in range(3)]
        assert {root_of(ready.path, roots) for ready in new} == {0}
        assert client.pull(placed[1].source, max_age=0).path == placed[1].path
        code, text = healthz(local)
        assert code == 200
        assert text.startswith(f"degraded: {roots[1]}: ") and FAILED.search(text)
        status = local.status()
        assert [root["reason"] is None for root in status["roots"]] == [True, False]
        assert said(systemd).startswith(f"STATUS=degraded: {roots[1]}: ")
    local.stop()
    disk.mend()
    with local.start().client() as client:
        assert local.status()["healthy"]
        assert client.path(placed[1].source).path == placed[1].path


@pytest.mark.parametrize("trouble", ["a file", "somebody else's", "of a newer version"])
def test_a_root_that_cannot_be_used_is_left_out_and_said(
    local: DaemonProcess, roots: tuple[Path, Path], make_model: Model, trouble: str
) -> None:
    if trouble == "a file":
        roots[1].write_text("")
    else:
        roots[1].mkdir()
    if trouble == "somebody else's":
        os.chown(roots[1], 65534, 65534)
    if trouble == "of a newer version":
        (roots[1] / "FORMAT").write_text("99\n")
    with local.start().client() as client:
        ready = client.pull(f"file://{make_model()}")
        assert root_of(ready.path, roots) == 0
    status = local.status()
    assert not status["healthy"]
    assert str(roots[1]) in status["reason"]
    missing = status["roots"][1]
    assert missing["root"] == str(roots[1])
    assert_one_sentence(missing["reason"])
    code, text = healthz(local)
    assert (code, text.startswith(f"degraded: {roots[1]}: ")) == (200, True)
    assert str(roots[1]) in doctor(local)["daemon"]
    assert str(roots[1]) in local.cli("status").stdout


def test_no_root_at_all_is_no_daemon(local: DaemonProcess, roots: tuple[Path, Path]) -> None:
    for root in roots:
        root.write_text("")
    shown = local.cli("serve", "--config", str(local.config()))
    assert shown.returncode == 1
    assert "is not a directory" in shown.stderr
