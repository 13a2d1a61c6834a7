"""Whoever holds others' credentials leaves no core, and lets nobody of its own user look into its memory."""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cached.undumpable import leave_no_core
from tests.daemon_process import DaemonProcess
from tests.systemd.unit import FOLDER, directives
from tests.waiting import until

has_capabilities = pytest.mark.skipif(os.geteuid() != 0, reason="gives up capabilities")
EQUAL = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")  # Else root's capabilities would open everything.


def core_limit(pid: int) -> str:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line.split()[4] for line in lines if line.startswith("Max core"))


def in_child(uid: int, do: Callable[[], None]) -> int:
    """Its exit code, or its signal as waitpid says it."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            do()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def can_be_read(pid: int) -> bool:
    """Whether an equal of the process, without more rights than its own, may look into its memory."""
    return subprocess.run([*EQUAL, "cat", f"/proc/{pid}/environ"], capture_output=True).returncode == 0


@has_capabilities
def test_neither_the_daemon_nor_a_worker_can_be_dumped_or_read(daemon: DaemonProcess) -> None:
    """The kernel asks the same of both (ptrace(2), "access mode checking"), beyond the limit."""
    daemon.start(EQUAL, workers=2)
    assert daemon.process
    for pid in (daemon.process.pid, *daemon.workers()):
        assert core_limit(pid) == "0"
        assert not can_be_read(pid)


@has_capabilities
def test_any_other_process_can_be_read() -> None:
    with subprocess.Popen([*EQUAL, "sleep", "60"]) as other:
        until(lambda: Path(f"/proc/{other.pid}/comm").read_text() == "sleep\n")
        assert can_be_read(other.pid)
        other.kill()


def test_a_process_that_leaves_no_core_still_reads_what_it_must() -> None:
    def do() -> None:
        leave_no_core()
        fd = os.open("/proc/self/comm", os.O_RDONLY)
        assert os.readlink(f"/proc/self/fd/{fd}").endswith("/comm")
        assert Path("/proc/locks").read_text() is not None
        assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)

    assert in_child(os.geteuid() or 4001, do) == 0


def test_a_process_that_leaves_no_core_leaves_none_when_it_crashes(tmp_path: Path) -> None:
    def crash() -> None:
        os.chdir(tmp_path)
        leave_no_core()
        faulthandler.disable()
        os.abort()

    tmp_path.chmod(0o777)
    ended = in_child(os.geteuid(), crash)
    assert os.WTERMSIG(ended) == signal.SIGABRT and not os.WCOREDUMP(ended)
    assert list(tmp_path.iterdir()) == []


def test_the_unit_sets_the_limit_too() -> None:
    assert directives((FOLDER / "cached.service").read_text())["LimitCORE"] == ["0"]
