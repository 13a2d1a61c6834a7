"""The one door from the event loop to threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


NICE = -5


def prefer_this_process() -> None:
    """Let the daemon, which answers hits in microseconds, run before whoever loads the cores with long work.

    Call it before there are threads: Linux keeps the nice value per thread, and new ones inherit it. It is for all of
    them, because the event loop waits for whichever has the interpreter; what takes long, as hashing does, is done by
    the workers, which are processes of their own. Without the right to it (LimitNICE= in the unit) nothing changes.
    """
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)


class Threads:
    """For short work on the store."""

    def __init__(self) -> None:
        self._disk = ThreadPoolExecutor(4, "disk")

    async def disk(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A cancelled caller comes back only when its call has ended: no thread touches a file that was given up."""
        future = asyncio.get_running_loop().run_in_executor(self._disk, lambda: call(*args, **kwargs))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise
