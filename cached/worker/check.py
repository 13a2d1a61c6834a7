"""Read blobs again, at a bounded rate and with the lowest priority where no caller waits for the result."""

from __future__ import annotations

import ctypes
import platform
import time

from cached.store.blobs.verify import Checkup, check
from cached.worker.messages import Check

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}.get(platform.machine())
_IOPRIO_WHO_PROCESS = 1
_IDLE, _BEST_EFFORT = 3 << 13, (2 << 13) + 6  # ioprio_set(2): the class above bit 13; 6 is what the unit gives us.


def run_check(asked: Check) -> Checkup:
    _prefer(_IDLE if asked.rate else _BEST_EFFORT)
    pace = Pace(asked.rate).take if asked.rate else None
    return check(str(asked.path), asked.digest, asked.size, asked.pieces, asked.deep, pace)


class Pace:
    """Sleep so that no more than `rate` bytes are read in a second."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._due = time.monotonic()

    def take(self, count: int) -> None:
        """Account for `count` bytes and sleep. Time lost beyond a second (a busy disk, a sleeping machine) is not made
        up for."""
        self._due = max(self._due, time.monotonic() - 1.0) + count / self._rate
        time.sleep(max(0.0, self._due - time.monotonic()))


def _prefer(priority: int) -> None:
    """Set the I/O priority of this thread and of threads that it starts. If that is not possible, nothing changes."""
    if _IOPRIO_SET is not None:
        ctypes.CDLL(None, use_errno=True).syscall(_IOPRIO_SET, _IOPRIO_WHO_PROCESS, 0, priority)
