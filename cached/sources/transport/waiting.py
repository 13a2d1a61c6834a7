"""Wait for a library's work on a loop or in a thread of its own, for as long as a caller waits for us."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

from cached import budget

Result = TypeVar("Result")

LOOK_SECONDS = 0.25  # Between two checks that a caller still waits.


def run_on(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Result], timeout: float) -> Result:
    """Run `work` on the loop and return its result. Raise TimeoutError after `timeout` seconds; then, or when no caller
    waits any more, the work is cancelled."""
    return result(asyncio.run_coroutine_threadsafe(work, loop), timeout)


def result(future: Future[Result], timeout: float) -> Result:
    """Return the future's result, as `run_on` does. Work that cannot be cancelled is left alone."""
    deadline = time.monotonic() + timeout
    try:
        while True:
            try:
                return future.result(min(LOOK_SECONDS, max(0.0, deadline - time.monotonic())))
            except FutureTimeout:
                if future.done() or time.monotonic() >= deadline:
                    raise
                budget.check()
    finally:
        future.cancel()
