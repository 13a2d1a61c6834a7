"""`doctor`: each check can be ok and can be something else."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from pathlib import Path

import pytest

from cached.cli import node
from cached.cli.last_start import check_last_start
from cached.cli.modes import check_modes
from cached.cli.node import (
    check_acls,
    check_credentials,
    check_flock,
    check_root,
    check_socket,
    check_space,
    filesystem,
)
from cached.config import Config, Size
from cached.store.store import Store
from tests.store.stored import add

from .answers import status
from .command import Command
from .wire_server import WireServer


def found(answer: str) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in json.loads(answer)}


def test_a_sound_node_passes_every_check(server: WireServer, cached: Command, tmp_path: Path) -> None:
    server.socket.chmod(0o660)
    (tmp_path / "root").mkdir()
    server.answers["GET /v1/status"] = status(root=str(tmp_path / "root"), limit=11 << 30)
    answer = cached("doctor", "--json")
    checks = found(answer.stdout)
    assert answer.returncode == 0 and answer.stderr == ""
    assert set(checks) == {
        *("config", "socket", "daemon", "version", "last start"),
        *("root", "flock", "modes", "space", "acls", "hub token", "sqlite"),
    }
    assert all(set(check) == {"name", "status", "detail", "mend"} for check in checks.values())
    assert {checks[name]["status"] for name in ("config", "socket", "daemon", "version", "flock", "sqlite")} == {"ok"}
    assert all(check["mend"] for check in checks.values() if check["status"] != "ok")


def test_without_a_daemon_it_says_what_to_mend_and_exits_1(alone: Command) -> None:
    answer = alone("doctor", "--json")
    checks = found(answer.stdout)
    assert answer.returncode == 1
    assert checks["socket"]["status"] == checks["daemon"]["status"] == "fail"
    assert "systemctl start cached" in checks["daemon"]["mend"]


def test_an_unhealthy_daemon_fails_with_its_reason(server: WireServer, cached: Command) -> None:
    server.answers["GET /v1/status"] = status(healthy=False, reason="The disk failed.")
    answer = cached("doctor")
    assert answer.returncode == 1
    assert [line for line in answer.stdout.splitlines() if line.startswith("fail\tdaemon\t") and "disk failed" in line]


def test_another_version_of_the_daemon_is_a_warning(server: WireServer, cached: Command) -> None:
    server.answers["GET /v1/status"] = status(version="9.9.9")
    check = found(cached("doctor", "--json").stdout)["version"]
    assert check["status"] == "warn" and "9.9.9" in check["detail"]


@pytest.mark.parametrize(
    ("recovered", "verdict", "said", "mend"),
    [
        ({"index": "kept", "snapshots": 3, "parts_kept": 1, "seconds": 0.1}, "ok", "Nothing had to be put right.", ""),
        ({"index": "kept", "snapshots_mended": 2}, "ok", "Put right: 2 snapshots mended.", ""),
        ({"index": "new"}, "ok", "Nothing", ""),
        ({"index": "kept", "damaged": 1, "blobs_damaged": 1}, "warn", "1 snapshots are damaged", "verify --repair"),
        ({"index": "rebuilt: lost", "snapshots_restored": 4}, "warn", "4 snapshots found again", "pin again"),
        ({"index": "rebuilt: damaged (malformed)"}, "warn", "damaged (malformed)", "Check the disk"),
        ({"index": "kept", "blobs_damaged": 1}, "warn", "1 damaged blobs", "Check the disk"),
        ({"index": "kept", "strays_left": 2}, "warn", "2 foreign names", "store.stray"),
    ],
)
def test_the_last_start_is_told_and_warns_of_what_is_lost(
    recovered: dict[str, object], verdict: str, said: str, mend: str
) -> None:
    check = check_last_start(recovered)
    assert (check.name, check.status) == ("last start", verdict)
    assert said in check.detail and mend in check.mend and bool(check.mend) == (verdict != "ok")


def test_the_last_start_is_shown_when_the_daemon_says_it(server: WireServer, cached: Command) -> None:
    server.answers["GET /v1/status"] = status(recovered={"index": "rebuilt: lost"})
    assert found(cached("doctor", "--json").stdout)["last start"]["status"] == "warn"


@pytest.mark.parametrize("text", ["limt = '1GiB'", "limit = true", "limit ="])
def test_a_bad_config_fails(text: str, alone: Command, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    check = found(alone("doctor", "--json", "--config", str(file)).stdout)["config"]
    assert check["status"] == "fail" and check["mend"]


def test_on_a_terminal_it_lists_what_to_mend(alone: Command) -> None:
    code, shown, _ = alone.on_terminal("doctor", stream="stdout")
    assert code == 1 and "FAIL" in shown and "To mend:" in shown


def test_no_token_is_ever_shown(server: WireServer, cached: Command) -> None:
    server.answers["GET /v1/status"] = status()
    answer = cached("doctor", HF_TOKEN="hf_canary")
    assert "HF_TOKEN is set" in answer.stdout and "hf_canary" not in answer.stdout + answer.stderr


def test_a_stored_token_is_not_forwarded_and_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_canary")
    check = check_credentials({"HF_HOME": str(tmp_path)})
    assert check.status == "warn" and "hf_canary" not in check.detail + check.mend
    assert check_credentials({"HF_HOME": str(tmp_path / "none")}).status == "ok"


def test_an_open_socket_is_a_warning_and_a_dead_one_fails(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert "nobody listens" in check_socket(path).detail
        listener.listen()
        path.chmod(0o660)
        assert check_socket(path).status == "ok"
        path.chmod(0o666)
        assert check_socket(path).status == "warn"
    assert check_socket(path).status == "fail"
    file = tmp_path / "file"
    file.touch()
    assert "not a socket" in check_socket(file).detail


def test_a_network_file_system_fails_and_a_passing_one_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, verdict in {"ext4": "ok", "xfs": "ok", "nfs4": "fail", "fuse.sshfs": "fail", "tmpfs": "warn"}.items():
        monkeypatch.setattr(node, "filesystem", lambda path, kind=kind: kind)
        assert check_root(tmp_path).status == verdict
    assert check_root(tmp_path / "none").status == "fail"


def test_the_innermost_and_last_mount_names_the_file_system(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"2 1 0:9 / {tmp_path}/a rw shared:3 - nfs4 host:/x rw\n"
        f"3 1 8:2 / {tmp_path}/a rw - xfs /dev/sdb rw\n"
    )
    assert filesystem(tmp_path / "a" / "b", mounts) == "xfs"
    assert filesystem(tmp_path / "ab", mounts) == "ext4"
    assert filesystem(tmp_path, tmp_path / "none") == ""


def test_locks_that_exclude_nobody_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_flock(tmp_path).status == check_acls(tmp_path).status == "ok"
    assert check_acls(Path("/proc/self")).status == "fail"
    without = check_acls(Path("/proc/self"), enforced=False)
    assert without.status == "warn" and "any user can lock a model against the others" in without.detail
    assert check_flock(tmp_path / "none").status == "warn"
    open_before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(fcntl, "flock", lambda fd, how: None)
    assert check_flock(tmp_path).status == "fail"
    assert len(os.listdir("/proc/self/fd")) == open_before


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("index.db", 0o644),
        ("index.db-shm", 0o604),
        ("FORMAT", 0o640),
        ("quarantine", 0o755),
        ("snapshots", 0o755),
        (".", 0o775),
        ("snapshots/MODEL.json", 0o444),
        ("snapshots/MODEL.locks/4001", 0o444),
        ("snapshots/MODEL", 0o755 | 0o020),
    ],
)
def test_what_others_could_open_or_write_to_is_named_and_a_restart_mends_it(
    tmp_path: Path, name: str, mode: int
) -> None:
    with contextlib.closing(open_store(tmp_path / "root")) as store:
        model = add(store, "m", {"config.json": b"{}"})
        store.leases.make(model.digest, 4001)
        assert check_modes(store.layout.root).status == "ok", check_modes(store.layout.root)
        path = store.layout.root / name.replace("MODEL", model.digest.hex)
        path.chmod(mode)
        check = check_modes(store.layout.root)
        assert check.status == "fail" and f"has mode {mode:04o}" in check.detail and "Restart the daemon" in check.mend
    with contextlib.closing(open_store(tmp_path / "root")) as store:
        assert check_modes(store.layout.root).status == "ok", check_modes(store.layout.root)


def test_what_belongs_to_another_user_is_named(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to give files away")
    with contextlib.closing(open_store(tmp_path / "root")) as store:
        os.chown(store.layout.index, 4001, -1)
        check = check_modes(store.layout.root)
    assert check.status == "fail" and "index.db belongs to user 4001" in check.detail and "chown -R 0" in check.mend


def open_store(root: Path) -> Store:
    return Store(Config(root=root, keep_free=Size(0)))


def test_a_limit_that_the_disk_cannot_hold_is_a_warning(tmp_path: Path) -> None:
    assert check_space(tmp_path, status(limit=1 << 60)).status == "warn"
    assert check_space(tmp_path, status(limit=1 << 30)).mend
    assert check_space(tmp_path, status(limit=(10 << 30) + 1)).status == "ok"
    assert check_space(tmp_path, None).status == "ok"


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 53, 0), False),
    ],
)
def test_the_range_of_the_wal_reset_bug(version: tuple[int, ...], affected: bool) -> None:
    assert node.has_wal_reset_bug(version) is affected
    assert ("has the WAL-reset bug" in node.check_sqlite(version).detail) is affected
