"""The one door from the event loop to threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


LOOP_NICE = -5


def prefer_this_thread() -> None:
    """Let the event loop, which answers hits in microseconds, run before whoever loads the cores with long work.

    Linux keeps the nice value per thread. Without the right to it (LimitNICE= in the unit) nothing changes.
    """
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOOP_NICE)


def _ordinary() -> None:
    """New threads inherit the loop's nice value, and must give it back."""
    if os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == LOOP_NICE:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 0)


class Threads:
    """For short work on the store."""

    def __init__(self) -> None:
        self._disk = ThreadPoolExecutor(4, "disk", _ordinary)

    async def disk(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A cancelled caller comes back only when its call has ended: no thread touches a file that was given up."""
        future = asyncio.get_running_loop().run_in_executor(self._disk, lambda: call(*args, **kwargs))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise
