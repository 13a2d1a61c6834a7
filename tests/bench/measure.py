"""What one client cost: wall time, its own CPU seconds, its peak memory. Servers are processes of their own."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.daemon_process import DaemonProcess

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds, CPU seconds, bytes resident at the peak."""

    seconds: float
    cpu: float
    peak: int


def run(command: Sequence[str], environment: dict[str, str]) -> Cost:
    """A program from its start to its end, with what it started itself. RuntimeError when it fails."""
    before = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - before
    process.stderr.close()
    if process.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{said.decode(errors='replace')[-2000:]}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def pull(folder: Path, uri: str, environment: dict[str, str], **settings: object) -> Cost:
    """A cold `pull` through a daemon of its own, from the question to the answer: published, durable, ready to load."""
    daemon = DaemonProcess(folder, **settings)
    daemon.environment = environment
    try:
        daemon.start()
        assert daemon.process
        pid = daemon.process.pid
        with daemon.client(timeout=60) as client:
            cpu, before = cpu_seconds(pid), time.perf_counter()
            client.pull(uri)
            seconds = time.perf_counter() - before
        return Cost(seconds, cpu_seconds(pid) - cpu, peak_bytes(pid))
    finally:
        daemon.close()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / _TICKS


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
