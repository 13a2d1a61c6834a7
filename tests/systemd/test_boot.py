"""The shipped unit on a booted systemd, installed by the very commands that the README gives.

The tests run in order on one machine: each leaves the service running for the next.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.systemd.machine import FOLDER, Machine

pytestmark = pytest.mark.systemd

MODEL = "file:///srv/models/tiny"
TOKEN = "hf_canaryTokenThatMustNotBeShown"
# Holds its lease until its standard input ends.
HOLDER = f"""
import sys
sys.path.insert(0, "/opt/cached/source")
from cached import Client
with Client() as client, client.acquire("{MODEL}") as lease:
    print(lease.path, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with the service installed and started as the README says, and one model in a folder."""
    machine = Machine(tmp_path_factory.mktemp("machine") / "root")
    try:
        machine.boot()
        machine.write("/srv/models/tiny/config.json", '{"model_type": "llama"}')
        machine.write("/srv/models/tiny/model.safetensors", "weights" * 1000)
        machine.write("/etc/cached/config.toml", _settings())
        machine.write("/etc/credstore/cached.hf_token", TOKEN, mode="0644")
        machine.run("sh", "-exc", f"cd /checkout\n{_readme_commands()}")
        machine.run("useradd", "--no-create-home", "--groups", "cached", "replica")
        machine.run("useradd", "--no-create-home", "--groups", "cached,cached-admin", "keeper")
        machine.run("useradd", "--no-create-home", "stranger")
        yield machine
    finally:
        machine.shut_down()


def _settings() -> str:
    """The example as an operator edits it."""
    text = (FOLDER / "systemd" / "config.toml").read_text()
    text = re.sub(r"^#protocols = .*$", 'protocols = ["hf", "s3", "file"]', text, flags=re.MULTILINE)
    return re.sub(r"^#file_roots = .*$", 'file_roots = ["/srv/models"]', text, flags=re.MULTILINE)


def _readme_commands() -> str:
    found = re.search(
        r"^### Operator.*?^```sh\n(.*?)^```", (FOLDER / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert found
    return found[1]


def shown(machine: Machine, name: str) -> str:
    return machine.run("systemctl", "show", "cached", f"--property={name}", "--value").stdout.strip()


def until(rule: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Poll systemd, which has no way to call back."""
    deadline = time.monotonic() + seconds
    while not rule():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def as_user(machine: Machine, user: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return machine.run("runuser", "-u", user, "--", *command, check=check)


def pull(machine: Machine, user: str = "replica") -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(as_user(machine, user, "cached", "pull", MODEL, "--json").stdout)
    return answer


@contextlib.contextmanager
def holding(machine: Machine) -> Iterator[None]:
    """While a process of the user `replica` holds a lease on the model."""
    machine.write("/opt/holder.py", HOLDER)
    holder = machine.start("runuser", "-u", "replica", "--", "/opt/python/bin/python3", "/opt/holder.py")
    try:
        assert holder.stdout
        assert holder.stdout.readline().startswith("/var/lib/cached/snapshots/")
        yield
    finally:
        holder.communicate(timeout=30)
    assert holder.returncode == 0


def kill_daemon(machine: Machine, signal: str = "KILL") -> None:
    """Kill the main process, and return when systemd has another one that is ready."""
    before = shown(machine, "MainPID")
    machine.run("kill", f"-{signal}", before)
    until(lambda: shown(machine, "MainPID") not in ("0", before), "a new main process")
    until(lambda: shown(machine, "ActiveState") == "active", "READY after a crash")


def test_the_readme_s_commands_leave_a_running_service(machine: Machine) -> None:
    assert (shown(machine, "ActiveState"), shown(machine, "SubState")) == ("active", "running")
    assert shown(machine, "NRestarts") == "0"


def test_a_start_returns_only_when_the_socket_answers(machine: Machine) -> None:
    machine.run("systemctl", "restart", "cached")
    assert json.loads(machine.run("cached", "status", "--json").stdout)["healthy"]


def test_the_socket_is_for_the_group_alone(machine: Machine) -> None:
    assert machine.run("stat", "-c", "%A %U %G", "/run/cached/cached.sock").stdout.split() == [
        "srw-rw----",
        "cached",
        "cached",
    ]
    assert as_user(machine, "stranger", "cached", "pull", MODEL, check=False).returncode == 69


def test_a_member_of_the_group_pulls_and_reads_a_model(machine: Machine) -> None:
    path = as_user(machine, "replica", "cached", "pull", MODEL).stdout.strip()
    assert path.startswith("/var/lib/cached/snapshots/")
    assert "llama" in as_user(machine, "replica", "cat", f"{path}/config.json").stdout
    assert pull(machine)["hit"]


def test_nobody_but_the_daemon_looks_below_blobs(machine: Machine) -> None:
    assert as_user(machine, "replica", "ls", "/var/lib/cached/blobs", check=False).returncode != 0


def test_admin_verbs_are_for_the_admin_group(machine: Machine) -> None:
    """Also shows that the hardened unit still sees the true uid of a caller."""
    pull(machine)
    assert as_user(machine, "replica", "cached", "pin", MODEL, check=False).returncode == 4
    as_user(machine, "keeper", "cached", "pin", MODEL)
    machine.run("cached", "unpin", MODEL)


def test_the_hardened_unit_sees_who_holds_a_lease(machine: Machine) -> None:
    with holding(machine):
        leases = json.loads(machine.run("cached", "leases", "--json").stdout)["leases"]
        uid = int(machine.run("id", "-u", "replica").stdout)
        assert [(one["uid"], one["command"]) for one in leases if one["held"]] == [(uid, "python3")]


def test_the_loop_runs_before_the_threads_that_hash_where_the_limit_could_be_set(machine: Machine) -> None:
    """The filter lets it be asked for; a sandbox whose root may not raise limits gives nobody LimitNICE=."""
    pid = shown(machine, "MainPID")
    limit = re.search(r"^Max nice priority +(\d+)", machine.run("cat", f"/proc/{pid}/limits").stdout, re.MULTILINE)
    assert limit
    assert machine.run("ps", "-o", "ni=", "-q", pid).stdout.strip() == ("-5" if limit[1] == "25" else "0")


def test_a_killed_daemon_is_started_again_and_keeps_its_models(machine: Machine) -> None:
    path, restarts = pull(machine)["path"], int(shown(machine, "NRestarts"))
    kill_daemon(machine)
    assert int(shown(machine, "NRestarts")) == restarts + 1
    answer = pull(machine)
    assert (answer["path"], answer["hit"]) == (path, True)


def test_a_lease_outlives_the_daemon_that_gave_it(machine: Machine) -> None:
    path = pull(machine)["path"]
    with holding(machine):
        kill_daemon(machine)
        machine.run("cached", "gc", "--free", "1PiB", check=False)
        machine.run("test", "-e", f"{path}/config.json")
    machine.run("cached", "gc", "--free", "1PiB", check=False)
    assert machine.run("test", "-e", f"{path}/config.json", check=False).returncode == 1


def test_a_daemon_that_hangs_is_replaced_by_the_watchdog(machine: Machine) -> None:
    machine.write("/run/systemd/system/cached.service.d/quick.conf", "[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "cached")
    kill_daemon(machine, "STOP")
    machine.run("rm", "/run/systemd/system/cached.service.d/quick.conf")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "cached")


def test_a_stop_takes_less_than_ten_seconds_and_is_clean(machine: Machine) -> None:
    before = time.monotonic()
    machine.run("systemctl", "stop", "cached")
    assert time.monotonic() - before < 10
    assert (shown(machine, "Result"), shown(machine, "ExecMainStatus")) == ("success", "0")
    assert machine.run("cached", "ls", check=False).returncode == 69
    machine.run("systemctl", "start", "cached")


def test_a_wrong_setting_stops_the_unit_at_once_and_says_why(machine: Machine) -> None:
    machine.write("/etc/cached/config.toml", _settings() + "\nkeep_fre = 1\n")
    assert machine.run("systemctl", "restart", "cached", check=False).returncode != 0
    until(lambda: shown(machine, "ActiveState") == "failed", "a failed unit that is not tried again")
    assert shown(machine, "ExecMainStatus") == "2"
    assert "keep_fre" in journal(machine)
    machine.write("/etc/cached/config.toml", _settings())
    machine.run("systemctl", "start", "cached")


def test_a_credential_reaches_the_daemon_alone_and_no_log(machine: Machine) -> None:
    """The two that are absent did not stop the unit; tmpfiles closed the file that was written open."""
    assert machine.run("stat", "-c", "%a", "/etc/credstore/cached.hf_token").stdout.strip() == "600"
    directory = "/run/credentials/cached.service"
    assert machine.run("ls", directory).stdout.split() == ["hf_token"]
    assert as_user(machine, "cached", "cat", f"{directory}/hf_token").stdout == TOKEN
    assert as_user(machine, "keeper", "cat", f"{directory}/hf_token", check=False).returncode != 0
    assert TOKEN not in journal(machine)


def test_the_root_holds_nothing_but_the_layout(machine: Machine) -> None:
    """No library of the daemon's leaves a cache of its own in the daemon's home."""
    layout = {"FORMAT", "index.db", "index.db-shm", "index.db-wal"}
    layout |= {"blobs", "snapshots", "ingest", "trash", "quarantine"}
    assert set(machine.run("ls", "-A", "/var/lib/cached").stdout.split()) <= layout


def journal(machine: Machine) -> str:
    return machine.run("journalctl", "--unit=cached", "--no-pager", "--output=cat").stdout


def test_the_machine_leaves_nothing_mounted(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "root")
    machine.boot()
    machine.shut_down()
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    assert not (tmp_path / "root").exists()
