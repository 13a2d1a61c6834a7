"""What one client cost: wall time, its own CPU seconds, its peak memory. Servers are processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.daemon_process import DaemonProcess

PROGRAMS = Path(__file__).with_name("programs")
TIMEOUT = 300.0  # Seconds for one run of one client.
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds, CPU seconds, bytes resident at the peak; and the monotonic time when it ended."""

    seconds: float
    cpu: float
    peak: int
    ended: float


class Launched(DaemonProcess):
    """A daemon that another command starts: `prefix` comes before it."""

    prefix: tuple[str, ...] = ()

    def spawn(self, prefix: tuple[str, ...] = (), **settings: object) -> subprocess.Popen[bytes]:
        return super().spawn(prefix or self.prefix, **settings)


def run(command: Sequence[str], environment: Mapping[str, str], timeout: float = TIMEOUT) -> Cost:
    """A program from its start to its end, with what it started itself. RuntimeError when it fails."""
    timed = [sys.executable, "-I", "-S", str(PROGRAMS / "timed.py"), *command]
    process = subprocess.Popen(
        timed,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        cost, said = process.communicate(timeout=timeout)
    except BaseException:  # A timeout, or the bench was told to stop: the program must not outlive it.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)[:300]}\n{said.decode(errors='replace')[-1500:]}")
    return Cost(**json.loads(cost))


def pull(
    folder: Path,
    uri: str,
    size: int,
    environment: Mapping[str, str],
    prefix: tuple[str, ...] = (),
    limit: float = TIMEOUT,
    **settings: object,
) -> Cost:
    """A cold `pull` through a daemon of its own, from the question to the answer: published, durable, ready to load."""
    daemon = Launched(folder, **settings)
    daemon.environment, daemon.prefix = dict(environment), prefix
    try:
        daemon.start()
        assert daemon.process
        pids = [daemon.process.pid, *daemon.workers()]  # It runs already when somebody asks it for a model.
        with daemon.client(timeout=60) as client:
            cpu, before = sum(map(cpu_seconds, pids)), time.monotonic()
            ready = client.pull(uri, timeout=limit)
            ended = time.monotonic()
        if ready.size != size or ready.hit:
            raise RuntimeError(f"{uri} was to be {size} bytes from the origin: {ready}")
        if [daemon.process.pid, *daemon.workers()] != pids:
            raise RuntimeError("a worker died on the way")
        return Cost(ended - before, sum(map(cpu_seconds, pids)) - cpu, sum(map(peak_bytes, pids)), ended)
    finally:
        daemon.close()


def cpu_seconds(pid: int) -> float:
    """Of the process and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / _TICKS


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def in_turn(
    folder: Path, rounds: int, clients: Mapping[str, Callable[[Path], Cost]], failed: Callable[[str, str], None]
) -> dict[str, list[Cost]]:
    """A, B, C, A, B, C …: each fetches into an empty folder, which is removed again.

    A peer that fails is reported and left out from then on; when we do, it is raised.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in clients}
    for _ in range(rounds):
        for name in list(costs):
            target = folder / "target"
            target.mkdir()
            try:
                costs[name].append(clients[name](target))
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                if name == "cached":
                    raise
                failed(name, str(error))
                del costs[name]
            finally:
                shutil.rmtree(target)
    return costs


def program(command: Sequence[str], target: Path, size: int, environment: Mapping[str, str]) -> Cost:
    """`run`, and RuntimeError unless `size` bytes have arrived: who stops early is not faster."""
    cost = run(command, environment)
    paths = (path for path in target.rglob("*") if not path.is_symlink())
    arrived = sum(path.stat().st_size for path in paths if path.is_file())
    if arrived < size:
        raise RuntimeError(f"{' '.join(command)[:300]}\nended well, but of {size} bytes only {arrived} are there")
    return cost
