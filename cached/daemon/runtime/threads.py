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
    """Raise the priority of the daemon, which answers hits in microseconds, above processes that load the cores with
    long work.

    Call it before there are threads: Linux keeps the nice value per thread, and new threads inherit it. It applies to
    all of them, because the event loop waits for the thread that has the interpreter; long work, such as hashing, is
    done by the workers, which are processes of their own. Without the right to it (LimitNICE= in the unit) nothing
    changes.
    """
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)


class Threads:
    """Run short work on the store in threads."""

    def __init__(self) -> None:
        self._disk = ThreadPoolExecutor(4, "disk")

    async def disk(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the call in a thread, and return its result. A cancelled caller returns only when its call has ended: no
        thread touches a file that was given up."""
        future = asyncio.get_running_loop().run_in_executor(self._disk, lambda: call(*args, **kwargs))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise
