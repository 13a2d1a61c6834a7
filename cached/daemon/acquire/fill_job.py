"""One fill, for which several callers may wait, and its progress."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field

from cached.daemon.transfer.download import Batch
from cached.model import Progress
from cached.model_ref import ModelRef
from cached.wire import Ready


@dataclass(eq=False, slots=True)
class Fill:
    """A running fill. `task` ends with the answer, or the error, that every waiter receives."""

    ref: ModelRef
    phase: str = "resolving"
    cached_bytes: int = 0
    cached_files: int = 0
    total_files: int = 0
    total_bytes: int = 0
    paused: Callable[[Batch], bool] = lambda batch: False
    task: asyncio.Task[Ready] | None = None
    pausing: bool = False  # The fill pauses before it asks the source again.
    waiters: int = 0
    uids: set[int] = field(default_factory=set)  # Its users; it is not visible to others.
    abandon: bool = True  # Until one waiter wants it finished in any case.
    batch: Batch = field(init=False)

    def __post_init__(self) -> None:
        self.fetch_anew()

    def fetch_anew(self) -> None:
        """Start counting again: nothing has been fetched yet, or none of it counts any longer."""
        self.batch = Batch(self.uids)

    def progress(self) -> Progress:
        batch = self.batch
        pausing = self.pausing or (self.phase == "fetching" and self.paused(batch))
        phase = "waiting for the source" if pausing else self.phase
        done, files = self.cached_bytes + batch.done, self.cached_files + batch.ended_files
        return Progress(phase, done, self.total_bytes, self.cached_bytes, files, self.total_files)

    def pause(self, pausing: bool) -> None:
        self.pausing = pausing

    async def watch(self, interval: float) -> AsyncGenerator[Progress | Ready, None]:
        """Yield progress every `interval` seconds, then the answer; or raise the fill's error."""
        assert self.task is not None  # Set before a fill is shown to anyone.
        while not self.task.done():
            yield self.progress()
            await asyncio.wait([self.task], timeout=interval)
        yield self.task.result()

    @contextlib.contextmanager
    def waited_for(self, abandon: bool) -> Iterator[None]:
        """Count the caller as a waiter during the block, even if it never receives anything.

        Leaving early spares the other waiters. The last to leave lets the fill continue, unless all of them passed
        `abandon`: a caller that retries after a timeout then does not start again from nothing, also while the source
        is being asked.
        """
        assert self.task is not None  # Set before a fill is shown to anyone.
        self.waiters += 1
        self.abandon = self.abandon and abandon
        try:
            yield
        finally:
            self.waiters -= 1
            if self.waiters == 0 and self.abandon and not self.task.done():
                self.task.cancel()
