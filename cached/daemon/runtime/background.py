"""Work that goes on for as long as the daemon does, whatever happens in it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger("cached.daemon")

AGAIN_SECONDS = 5.0  # After a failure that nobody foresaw.
PATIENCE = 2.0  # Seconds that what is cancelled may take to end.


class Background:
    """Tasks that are begun again when they fail, and end with `close`."""

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
    """Until it ends by itself."""
    while True:
        try:
            await run()
            return
        except Exception:
            log.exception("background.bug")
            await asyncio.sleep(AGAIN_SECONDS)
