"""Half a core for many processes together: by a control group where there is one, else by stopping them at times."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

CORES = 0.5
_PERIOD = 0.1  # Seconds over which their CPU time is counted.
_TICKS = os.sysconf("SC_CLK_TCK")


class HalfCore:
    """Whoever is added, and the children that it has from then on, share `CORES` with the others. Needs root."""

    def __init__(self) -> None:
        self._group: Path | None = None
        self._pids: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._take_turns, daemon=True)
        self.how = "by stopping them"

    def add(self, pid: int) -> None:
        self._pids.append(pid)
        if self._group is not None:
            (self._group / "cgroup.procs").write_text(str(pid))

    def __enter__(self) -> Self:
        name = f"cached-soak-{secrets.token_hex(4)}"
        period = int(_PERIOD * 1e6)
        settings = (  # Version 2, and version 1 (https://docs.kernel.org/scheduler/sched-bwc.html).
            (Path("/sys/fs/cgroup") / name, {"cpu.max": f"{int(CORES * period)} {period}"}),
            (Path("/sys/fs/cgroup/cpu") / name, {"cpu.cfs_period_us": period, "cpu.cfs_quota_us": int(CORES * period)}),
        )
        for group, values in settings:
            if self._made(group, values):
                self._group, self.how = group, "by a control group"
                return self
        self._thread.start()
        return self

    def _made(self, group: Path, values: dict[str, object]) -> bool:
        try:
            group.mkdir()
        except OSError:
            return False
        try:
            for name, value in values.items():
                with (group / name).open(
                    "r+"
                ) as file:  # Not created where it is not there: then this is no such group.
                    file.write(str(value))
        except OSError:
            group.rmdir()
            return False
        return True

    def _take_turns(self) -> None:
        """Let them run until they have used up their time, then stop them until they have some again."""
        begun, stopped = time.monotonic(), False
        base = self._used()
        while not self._over.wait(_PERIOD / 5):
            over = self._used() - base > CORES * (time.monotonic() - begun)
            if over != stopped:
                stopped = over
                self._signal(signal.SIGSTOP if over else signal.SIGCONT)
        self._signal(signal.SIGCONT)

    def _family(self) -> list[int]:
        return [member for pid in self._pids for member in (pid, *_children(pid))]

    def _used(self) -> float:
        return sum(_cpu_seconds(pid) for pid in self._family())

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """All of them must have ended."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._group is not None:
            deadline = time.monotonic() + 10
            while True:
                try:
                    self._group.rmdir()
                    return
                except OSError:  # A member that has ended is still being taken out.
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)  # Polling a condition, with a deadline.


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _cpu_seconds(pid: int) -> float:
    """Of the process and of those of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(field) for field in fields[11:15]) / _TICKS
