"""Waiting for what another process will do."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(rule: Callable[[], bool], seconds: float = 30.0) -> None:
    """Return once it holds; AssertionError when it does not within that time."""
    deadline = time.monotonic() + seconds
    while not rule():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)  # Polling a condition, with a deadline.
