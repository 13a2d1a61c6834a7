"""Waiting for what a library does on a loop or in a thread of its own, as long as anybody waits for us."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

from cached import budget

Result = TypeVar("Result")

LOOK_SECONDS = 0.25  # How soon it is noticed that nobody does any more.


def run_on(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Result], timeout: float) -> Result:
    """What it gives. TimeoutError after so many seconds; then, and when nobody waits any more, it is cancelled."""
    return result(asyncio.run_coroutine_threadsafe(work, loop), timeout)


def result(future: Future[Result], timeout: float) -> Result:
    """As `run_on`. What cannot be cancelled is left alone."""
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
