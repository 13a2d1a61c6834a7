"""The daemon as a process, against real folders: what it promises to callers, and after being killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cached import (
    AllHeld,
    DaemonUnavailable,
    Forbidden,
    InvalidRequest,
    ModelIncomplete,
    ModelNotFound,
    NotCached,
    TooLarge,
)
from tests.daemon_process import CACHED, DaemonProcess, clean_environment

Model = Callable[..., Path]


@pytest.fixture
def local(daemon: DaemonProcess, tmp_path: Path) -> DaemonProcess:
    """A daemon that may read the folder in which `make_model` writes."""
    daemon.config(protocols=["file"], file_roots=[str(tmp_path / "models")])
    return daemon


def test_the_second_acquire_is_a_hit_on_the_same_path(local: DaemonProcess, make_model: Model) -> None:
    model = make_model()
    with local.start().client() as client:
        first, second = client.acquire(f"file://{model}"), client.acquire(f"file://{model}")
        assert (first.hit, second.hit) == (False, True)
        assert first.path == second.path
        first.release()
        assert (Path(second.path) / "config.json").read_bytes() == b"{}"
        second.release()


def test_a_hit_needs_no_source(local: DaemonProcess, make_model: Model) -> None:
    model = make_model()
    with local.start().client() as client:
        client.pull(f"file://{model}")
        model.rename(model.with_name("gone"))
        assert client.pull(f"file://{model}").hit


def test_a_changed_source_is_noticed_after_max_age_and_not_before(local: DaemonProcess, make_model: Model) -> None:
    model = make_model()
    with local.start().client() as client:
        old = client.pull(f"file://{model}")
        (model / "config.json").write_bytes(b'{"new": 1}')
        assert client.pull(f"file://{model}").digest == old.digest
        new = client.pull(f"file://{model}", max_age=0)
        assert new.digest != old.digest
        assert not new.hit
        assert os.stat(f"{new.path}/model.safetensors").st_ino == os.stat(f"{old.path}/model.safetensors").st_ino


def test_offline_answers_only_with_what_is_here(local: DaemonProcess, make_model: Model) -> None:
    model = make_model()
    with local.start().client() as client:
        with pytest.raises(NotCached):
            client.path(f"file://{model}")
        client.pull(f"file://{model}")
        assert client.path(f"file://{model}").hit


def test_patterns_choose_the_files_and_are_a_snapshot_of_their_own(local: DaemonProcess, make_model: Model) -> None:
    model = make_model(files={"config.json": b"{}", "a.safetensors": 10, "a.bin": 10})
    with local.start().client() as client:
        whole = client.pull(f"file://{model}")
        part = client.pull(f"file://{model}", exclude=["*.bin"])
        assert sorted(os.listdir(part.path)) == ["a.safetensors", "config.json"]
        assert part.digest != whole.digest
        with pytest.raises(ModelNotFound, match="no model files"):
            client.pull(f"file://{model}", include=["*.gguf"])


def test_an_llm_without_a_configuration_is_refused_on_a_miss_and_on_a_hit(
    local: DaemonProcess, make_model: Model
) -> None:
    model = make_model(files={"weights.safetensors": 10})
    with local.start().client() as client:
        with pytest.raises(ModelIncomplete, match=r"config\.json"):
            client.pull(f"file://{model}", require="llm")
        client.pull(f"file://{model}")
        with pytest.raises(ModelIncomplete):
            client.pull(f"file://{model}", require="llm")


def test_a_model_larger_than_the_store_is_too_large_before_the_first_byte(
    local: DaemonProcess, make_model: Model
) -> None:
    model = make_model(files={"config.json": b"{}", "w": 200_000})
    with local.start(limit="100kB").client() as client, pytest.raises(TooLarge, match="raise `limit`"):
        client.pull(f"file://{model}")
    assert local.files() == []
    assert local.status()["reserved"] == 0


def test_the_least_recently_used_makes_room_and_what_is_leased_stays(local: DaemonProcess, make_model: Model) -> None:
    models = [make_model(f"m{i}", {"config.json": b"{}", "w": 40_000 + i}) for i in range(4)]
    with local.start(limit="100kB", high_watermark=1.0, low_watermark=1.0).client() as client:
        leased = client.acquire(f"file://{models[0]}")
        second = client.pull(f"file://{models[1]}")
        third = client.pull(f"file://{models[2]}")
        assert Path(leased.path).exists()
        assert not Path(second.path).exists()
        held = client.acquire(f"file://{models[2]}")
        with pytest.raises(AllHeld, match="no room"):
            client.pull(f"file://{models[3]}")
        assert third.path == held.path
        assert client.call("GET", "/v1/status")["reserved"] == 0
        leased.release()
        held.release()


def test_above_the_high_watermark_it_evicts_down_to_the_low_one(local: DaemonProcess, make_model: Model) -> None:
    models = [make_model(f"m{i}", {"w": 20_000 + i}) for i in range(5)]
    with local.start(limit="100kB", high_watermark=0.7, low_watermark=0.3).client() as client:
        for model in models[:4]:
            client.pull(f"file://{model}")
        deadline = time.monotonic() + 10
        while client.call("GET", "/v1/status")["used"] > 30_000:
            assert time.monotonic() < deadline, client.call("GET", "/v1/status")
        assert [s["source"] for s in client.call("GET", "/v1/snapshots")["snapshots"]] == [f"file://{models[3]}"]


def test_a_pin_keeps_a_model_until_it_is_unpinned(local: DaemonProcess, make_model: Model) -> None:
    model = make_model()
    with local.start().client() as client:
        path = Path(client.pull(f"file://{model}", pin=True).path)
        assert client.call("POST", "/v1/gc", {"free": 1 << 40})["removed"] == []
        client.call("POST", "/v1/unpin", {"ref": f"file://{model}"})
        assert len(client.call("POST", "/v1/gc", {"free": 1 << 40, "dry_run": True})["removed"]) == 1
        assert path.exists()
        client.call("POST", "/v1/gc", {"free": 1 << 40})
        assert not path.exists()
        assert local.files() == []


def test_the_root_and_every_error_of_it_is_one_sentence(local: DaemonProcess, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    for setting, sentence in [
        ({"root": str(blocked / "root")}, "Cannot write to the root"),
        ({"limit": "lots"}, "must be a size"),
        ({"no_such": 1}, "Unknown setting 'no_such'"),
        ({"connections": True}, "must be a number"),
    ]:
        config = tmp_path / "bad.toml"
        lines = [f"{k} = {json.dumps(v)}" for k, v in setting.items()]
        config.write_text("\n".join([*lines, f'socket = "{local.socket}"']))
        shown = subprocess.run(
            [CACHED, "serve", "--config", config], capture_output=True, text=True, env=clean_environment(), timeout=30
        )
        assert shown.returncode != 0
        assert sentence in shown.stderr
        assert "Traceback" not in shown.stderr


def test_a_second_daemon_refuses_and_harms_nothing(local: DaemonProcess, make_model: Model) -> None:
    model = make_model()
    local.start()
    config = local.config()
    shown = subprocess.run(
        [CACHED, "serve", "--config", config], capture_output=True, text=True, env=clean_environment(), timeout=30
    )
    assert shown.returncode != 0
    assert "Another cached daemon" in shown.stderr
    with local.client() as client:
        assert not client.pull(f"file://{model}").hit


def test_only_administrators_may_use_admin_verbs(local: DaemonProcess, make_model: Model) -> None:
    if os.geteuid() != 0:
        pytest.fail("this test needs root, to become somebody else")
    model = make_model()
    local.start(socket_mode="0666")
    os.chmod(local.socket.parent, 0o755)
    code = (
        "import os, sys; import cached.client.connection; from cached import Client, Forbidden\n"
        "os.setgid(65534); os.setgroups([]); os.setuid(65534)\n"
        "client = Client(sys.argv[1])\n"
        "assert client.pull(sys.argv[2]).path\n"
        "for verb in ('pin', 'unpin', 'remove', 'gc', 'verify'):\n"
        "    try: client.call('POST', f'/v1/{verb}', {'ref': sys.argv[2]})\n"
        "    except Forbidden: continue\n"
        "    raise SystemExit(f'{verb} was allowed')\n"
        "try: client.pull(sys.argv[2], pin=True)\n"
        "except Forbidden: print('refused')\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, str(local.socket), f"file://{model}"], capture_output=True, text=True
    )
    assert shown.stdout == "refused\n", shown.stderr
    assert Forbidden.exit_code == 4


def test_whoever_may_reach_the_socket_is_decided_by_its_mode(local: DaemonProcess) -> None:
    local.start(socket_mode="0600")
    assert local.socket.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "uri"),
        ({"uri": 5}, "uri"),
        ({"uri": "org/name", "include": "x"}, "include"),
        ({"uri": "org/name", "max_age": -1}, "max_age"),
        ({"uri": "org/name", "max_age": True}, "max_age"),
        ({"uri": "org/name", "offline": 1}, "offline"),
        ({"uri": "org/name", "require": "x"}, "require"),
        ({"uri": "org/name", "credentials": {"HF_TOKEN": 1}}, "credentials"),
        ({"uri": "a b"}, "URI"),
    ],
)
def test_a_malformed_request_names_what_is_wrong(local: DaemonProcess, body: dict[str, Any], field: str) -> None:
    with local.start().client() as client, pytest.raises(InvalidRequest, match=field):
        client.call("POST", "/v1/acquire", body)


def test_a_scheme_that_the_config_does_not_name_is_refused(local: DaemonProcess) -> None:
    with local.start().client() as client, pytest.raises(InvalidRequest, match="nope"):
        client.pull("nope://x/y")


def test_file_urls_outside_the_allowed_folders_are_refused(local: DaemonProcess, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/way-out").symlink_to("/etc")
    with local.start().client() as client:
        for path in ("/etc", f"{tmp_path}/models/../..", f"{tmp_path}/models/way-out"):
            with pytest.raises(InvalidRequest):
                client.pull(f"file://{path}")


def test_a_symlink_inside_a_model_does_not_lead_out_of_the_allowed_folders(
    local: DaemonProcess, make_model: Model, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"do not serve")
    model = make_model()
    (model / "leak.json").symlink_to(secret)
    with local.start().client() as client:
        try:
            path = Path(client.pull(f"file://{model}").path)
        except (InvalidRequest, ModelNotFound):
            return
        assert not (path / "leak.json").exists()


def test_sigterm_parks_what_cannot_finish_and_exits_in_time(local: DaemonProcess, make_model: Model) -> None:
    model = make_model(files={"config.json": b"{}", "w": 96 << 20})
    local.start(connections=1)
    stopped = threading.Event()
    seen = threading.Event()

    def wait() -> None:
        try:
            local.client().pull(f"file://{model}", progress=lambda p: seen.set() if p.phase == "fetching" else None)
        except DaemonUnavailable:
            pass
        stopped.set()

    threading.Thread(target=wait, daemon=True).start()
    assert seen.wait(20)
    assert local.stop(timeout=10) == 0
    local.start()
    with local.client() as client:
        ready = client.pull(f"file://{model}")
    assert (Path(ready.path) / "w").read_bytes() == (model / "w").read_bytes()
    assert stopped.wait(60)


def test_systemd_hears_of_ready_watchdog_and_stopping(local: DaemonProcess, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        address = str(local.socket.with_name("n"))
        systemd.bind(address)
        systemd.settimeout(20)
        local.environment.update(NOTIFY_SOCKET=address, WATCHDOG_USEC="200000")
        local.spawn()
        assert systemd.recv(4096).startswith((b"READY=1", b"WATCHDOG=1"))
        heard = b""
        while b"WATCHDOG=1" not in heard:
            heard = systemd.recv(4096)
        assert local.process is not None
        local.process.send_signal(signal.SIGTERM)
        while not heard.startswith(b"STOPPING=1"):
            heard = systemd.recv(4096)
        assert local.process.wait(10) == 0
    assert not local.socket.exists()


def test_metrics_and_health_are_the_only_things_on_tcp(local: DaemonProcess) -> None:
    import http.client

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    local.start(listen=f"127.0.0.1:{port}")
    answers = {}
    for path in ("/metrics", "/healthz", "/v1/status", "/v1/snapshots"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", path)
        response = connection.getresponse()
        answers[path] = response.status
        body = response.read()
        if path == "/metrics":
            assert b"\ncached_used_bytes 0\n" in body
        connection.close()
    assert answers == {"/metrics": 200, "/healthz": 200, "/v1/status": 404, "/v1/snapshots": 404}


def test_verify_finds_damage_and_repair_mends_it_in_place_for_its_holders(
    local: DaemonProcess, make_model: Model
) -> None:
    model = make_model(files={"config.json": b"{}", "w": 100_000})
    with local.start(self_heal=False).client() as client:
        lease = client.acquire(f"file://{model}")
        damaged = Path(lease.path) / "w"
        os.chmod(damaged, 0o644)
        with damaged.open("r+b") as file:
            file.write(b"damage")
        assert local.cli("verify").returncode == 6
        with pytest.raises(NotCached):
            client.path(f"file://{model}")
        again = client.pull(f"file://{model}")
        assert again.path == lease.path
        assert damaged.read_bytes() == (model / "w").read_bytes()
        with damaged.open("rb") as file:
            os.chmod(damaged, 0o644)
            with open(f"/proc/self/fd/{file.fileno()}", "r+b") as writing:
                writing.write(b"again")
        report = client.call("POST", "/v1/verify", {"repair": True})
        assert [finding["repaired"] for finding in report["damaged"]] == [True]
        assert damaged.read_bytes() == (model / "w").read_bytes()
        assert client.call("POST", "/v1/verify", {"deep": True})["damaged"] == []
        lease.release()


@pytest.mark.parametrize("how", ["written", "removed", "blob removed", "blob truncated"])
def test_what_somebody_changes_behind_our_back_is_noticed_and_mended(
    local: DaemonProcess, make_model: Model, how: str
) -> None:
    model = make_model(files={"config.json": b"{}", "w": 100_000})
    with local.start(self_heal=False).client() as client:
        ready = client.pull(f"file://{model}")
        name = Path(ready.path) / "w"
        (blob,) = [path for path in (local.root / "blobs").rglob("*") if path.is_file() and path.stat().st_size > 2]
        os.chmod(name, 0o644)
        os.chmod(name.parent, 0o755)
        # Again and again: the watch on a new directory begins a moment after the directory is there.
        while client.call("GET", "/v1/snapshots")["snapshots"][0]["state"] != "damaged":
            _change(how, name, blob)
        with pytest.raises(NotCached):
            client.path(f"file://{model}")
        assert client.pull(f"file://{model}").path == ready.path
        assert name.read_bytes() == (model / "w").read_bytes()
        assert client.path(f"file://{model}").hit


def _change(how: str, name: Path, blob: Path) -> None:
    if how == "written":
        name.write_bytes(os.urandom(100_000))
    elif how == "removed":
        name.unlink(missing_ok=True)
        (name.parent / "passing").touch()
        (name.parent / "passing").unlink()
    elif how == "blob removed":
        blob.unlink(missing_ok=True)
    elif blob.exists():
        with blob.open("r+b") as file:
            file.truncate(10)
