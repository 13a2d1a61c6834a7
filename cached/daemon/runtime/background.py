"""Tasks that run for as long as the daemon does, whatever fails in them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger("cached.daemon")

AGAIN_SECONDS = 5.0  # Pause after an unexpected failure.
PATIENCE = 2.0  # Seconds for cancelled tasks to end.


class Background:
    """Run tasks that are started again when they fail, and end with `close`."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, run: Callable[[], Awaitable[None]]) -> None:
        self._tasks.append(asyncio.create_task(_again_and_again(run)))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=PATIENCE)


async def _again_and_again(run: Callable[[], Awaitable[None]]) -> None:
    """Run until it ends without an error; log errors and run again after AGAIN_SECONDS."""
    while True:
        try:
            await run()
            return
        except Exception:
            log.exception("background.bug")
            await asyncio.sleep(AGAIN_SECONDS)
