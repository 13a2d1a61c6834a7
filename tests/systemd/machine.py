"""A booted systemd: an overlay of this machine's own files, its own PID 1, no network, gone without a trace.

The overlay is mounted in a mount namespace of the machine's own, so that there is nothing to unmount even when a test
run is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from tests.programs import program

FOLDER = Path(__file__).parents[2]
BOOT_SECONDS = 90

# $1 is an empty directory, $2 the cgroups to enter; the rest is the command that boots. Writes go to memory:
# overlayfs cannot nest on itself.
_MOUNT_AND_BOOT = """
set -e
for group in $2; do echo $$ > "$group/cgroup.procs"; done
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/merged"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/merged"
cd /
shift 2
exec "$@"
"""

# The interpreter of the tests may live in a home directory, which the unit may not see; here it is in /opt, with the
# library that it was linked to, of which this machine may have another one.
_PROGRAM = """#!/bin/sh
export PYTHONPATH=/opt/cached/source:/opt/cached/packages PYTHONDONTWRITEBYTECODE=1
export LD_LIBRARY_PATH=/opt/python/lib
exec /opt/python/bin/python3 -P -c 'import sys; from cached.cli.main import main; sys.exit(main())' "$@"
"""


class Machine:
    """One container that runs systemd as PID 1, with this checkout at /opt/cached and /checkout. Needs root."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._log = place.with_suffix(".console")
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._started: list[subprocess.Popen[str]] = []
        # nspawn would share what it makes beside our own cgroup with every other machine, and leave it behind.
        self._cgroups = [group / f"cached-test-{os.getpid()}-{id(self)}" for group in _own_cgroups()]

    def __repr__(self) -> str:
        return f"Machine(pid 1 is {self._leader or 'not running'})"

    def boot(self) -> None:
        """Return once systemd inside has reached its basic target. AssertionError, with its console, if it does not."""
        if os.geteuid() != 0:
            pytest.skip("booting a machine needs root")
        program("dbus-daemon")  # systemd inside runs the one that is installed out here.
        self._place.mkdir()
        for group in self._cgroups:
            group.mkdir()
        root = self._place / "merged"
        binds = {
            sys.base_prefix: "/opt/python",
            sysconfig.get_path("purelib"): "/opt/cached/packages",
            str(FOLDER / "cached"): "/opt/cached/source/cached",
            str(FOLDER): "/checkout",
        }
        command = ["unshare", "--mount", "--propagation=private", "sh", "-c", _MOUNT_AND_BOOT, "boot"]
        command += [str(self._place), " ".join(map(str, self._cgroups))]
        command += [
            program("systemd-nspawn"),
            "--quiet",
            "--register=no",
            "--keep-unit",
            "--private-network",
            "--link-journal=no",
        ]
        command += [f"--machine=cached-{os.getpid()}-{id(self)}", "--console=pipe", f"--directory={root}"]
        command += [f"--bind-ro={source}:{target}" for source, target in binds.items()]
        command += ["--boot", "systemd.unit=basic.target"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._wait_for_boot()
        self.write("/opt/cached/bin/cached", _PROGRAM, mode="0755")
        self.run("ln", "-sf", "/opt/cached/bin/cached", "/usr/local/bin/cached")

    def _wait_for_boot(self) -> None:
        """Poll: PID 1 has no way to tell us, and its socket is not there from the start."""
        assert self._process
        deadline = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            self._leader = _child_named_init(self._process.pid)
            if self._leader and self.run("systemctl", "is-active", "basic.target", check=False).returncode == 0:
                return
            time.sleep(0.1)
        raise AssertionError(f"systemd did not come up:\n{self._log.read_text(errors='replace')[-4000:]}")

    def run(self, *command: str, check: bool = True, input: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root. AssertionError, with what it said, on a failure that `check` forbids."""
        done = subprocess.run(
            [*self._enter(), *command], check=False, capture_output=True, text=True, timeout=120, input=input
        )
        assert not check or done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command inside, with pipes to it. It ends with the machine at the latest."""
        process = subprocess.Popen([*self._enter(), *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._started.append(process)
        return process

    def _enter(self) -> list[str]:
        clean = [
            "env",
            "--ignore-environment",
            "--chdir=/",
            "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "LANG=C.UTF-8",
        ]
        return ["nsenter", f"--target={self._leader}", "--mount", "--uts", "--ipc", "--net", "--pid", *clean]

    def write(self, path: str, text: str, mode: str = "0644") -> None:
        self.run("install", f"-Dm{mode}", "/dev/stdin", path, input=text)

    def shut_down(self) -> None:
        """End everything inside. Never raises for a machine that did not come up."""
        if self._process is None:
            return
        for process in self._started:
            process.communicate()  # Ends their input, and so them: a power-off stops only what is in units.
        self._process.send_signal(signal.SIGTERM)  # An orderly power-off.
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            os.kill(self._leader or self._process.pid, signal.SIGKILL)  # With its PID 1 a pid namespace ends.
            self._process.wait(30)
        self._place.rmdir()
        for group in self._cgroups:
            _remove_cgroup(group)


def _child_named_init(parent: int) -> int:
    """The pid, out here, of the init that nspawn runs; 0 while there is none."""
    done = subprocess.run(
        ["ps", "-o", "pid=,comm=", "--ppid", str(parent)], check=False, capture_output=True, text=True
    )
    for line in done.stdout.splitlines():
        pid, name = line.split(None, 1)
        if name.strip() in ("systemd", "init"):
            return int(pid)
    return 0


def _own_cgroups() -> list[Path]:
    """Our places in the hierarchies that systemd manages: the unified one, and the one named systemd where it is."""
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            unified = Path("/sys/fs/cgroup/unified")
            found.append((unified if unified.is_dir() else unified.parent) / path.lstrip("/"))
        elif controllers == "name=systemd":
            found.append(Path("/sys/fs/cgroup/systemd") / path.lstrip("/"))
    return [group for group in found if (group / "cgroup.procs").exists()]


def _remove_cgroup(group: Path) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        os.rmdir(folder)
