"""One fill: what several callers may wait for, and how far it is."""

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
    """`task` ends in what every waiter is given, or in the error that every waiter gets."""

    ref: ModelRef
    phase: str = "resolving"
    cached_bytes: int = 0
    cached_files: int = 0
    total_files: int = 0
    total_bytes: int = 0
    paused: Callable[[Batch], bool] = lambda batch: False
    task: asyncio.Task[Ready] | None = None
    pausing: bool = False  # The source wants to be asked later, or may then be asked again.
    waiters: int = 0
    uids: set[int] = field(default_factory=set)  # Whose it is: who else may not hear of it.
    abandon: bool = True  # Until one waiter wants it to be finished come what may.
    batch: Batch = field(init=False)

    def __post_init__(self) -> None:
        self.fetch_anew()

    def fetch_anew(self) -> None:
        """Nothing has been fetched yet, or none of it counts any longer."""
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
        """Progress every `interval` seconds, then what was asked for; or the fill's error."""
        assert self.task is not None  # Set before a fill is shown to anyone.
        while not self.task.done():
            yield self.progress()
            await asyncio.wait([self.task], timeout=interval)
        yield self.task.result()

    @contextlib.contextmanager
    def waited_for(self, abandon: bool) -> Iterator[None]:
        """The caller waits as long as the block lasts, be it that it never hears anything.

        Leaving early spares the others. The last to leave lets the fill go on, unless all of them said `abandon`: who
        asks again after a time-out is then not at the beginning, also while the source is being asked.
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
