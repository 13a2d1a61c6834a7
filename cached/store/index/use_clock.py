"""The time of uses: what nobody sets while this process runs, so that their order is the order in which they were."""

from __future__ import annotations

import time

_BOOTED = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def steady_time() -> float:
    """Seconds since the epoch, by what the clock said when this process began."""
    return _BOOTED + time.clock_gettime(time.CLOCK_BOOTTIME)
