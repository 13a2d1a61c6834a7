"""The running fills: one per ref and credentials, however many callers request it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from cached.daemon.access.callers import Caller
from cached.daemon.acquire.counters import Counters
from cached.daemon.acquire.fill_job import Fill
from cached.errors import DaemonUnavailable, Overloaded, SourceDenied
from cached.wire import Ready

log = logging.getLogger("cached.cache")

MAX_FILLS = 256  # Running fills of one user.

Run = Callable[[Fill], Coroutine[Any, Any, Ready]]


class Fills:
    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._running: dict[str, Fill] = {}
        self._closing = False

    def __iter__(self) -> Iterator[Fill]:
        return iter(list(self._running.values()))

    def __len__(self) -> int:
        return len(self._running)

    def join(self, key: str, caller: Caller, new: Callable[[], Fill], run: Run) -> Fill:
        """Return the running fill under this key, or start a new one. Raises Overloaded when too many of this user run,
        and DaemonUnavailable when closing."""
        if self._closing:
            raise DaemonUnavailable("The daemon is shutting down; ask again in a moment.")
        fill = self._running.get(key)
        if fill is None or fill.task is None or fill.task.cancelling():  # This caller did not give up.
            self._refuse_too_many(caller)
            started = fill = self._running[key] = new()
            fill.task = asyncio.create_task(run(fill))
            fill.task.add_done_callback(lambda task: self._ended(key, started, task))
        if caller.uid is not None:
            fill.uids.add(caller.uid)
        return fill

    def _refuse_too_many(self, caller: Caller) -> None:
        """Raise Overloaded if MAX_FILLS of this user run, including those that no caller waits for any more."""
        if caller.uid is not None and sum(caller.uid in fill.uids for fill in self) >= MAX_FILLS:
            raise Overloaded(f"{MAX_FILLS} fetches that you asked for are under way; ask again when some have ended.")

    def _ended(self, key: str, fill: Fill, task: asyncio.Task[Ready]) -> None:
        if self._running.get(key) is fill:  # Otherwise another has taken its place, and may have ended first.
            del self._running[key]
        ref = str(fill.ref)
        if task.cancelled():
            log.info("fill.cancelled", extra={"ref": ref})
        elif error := task.exception():
            self._counters.failures += 1
            said = error.said if isinstance(error, SourceDenied) else ""  # The caller does not receive it.
            log.warning("fill.failed", extra={"ref": ref, "why": str(error), **({"said": said} if said else {})})

    async def close(self, patience: float) -> None:
        """Start nothing new, let running fills end for `patience` seconds, then park them."""
        self._closing = True
        tasks = [fill.task for fill in self if fill.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=patience)
        running = [task for task in tasks if not task.done()]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=1.0)
