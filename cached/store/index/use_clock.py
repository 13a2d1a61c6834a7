"""A wall clock that cannot jump while this process runs, so that LRU order is the order of use."""

from __future__ import annotations

import time

_BOOTED = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def steady_time() -> float:
    """Return seconds since the epoch, according to the setting of the clock when this process began."""
    return _BOOTED + time.clock_gettime(time.CLOCK_BOOTTIME)
