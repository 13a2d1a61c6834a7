"""The fills that run on a disk. One of them can be stopped to make room for another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cached.daemon.runtime.endings import seen
from cached.errors import AllHeld

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Fill:
    source: str
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    past: asyncio.Event = field(default_factory=asyncio.Event)  # It has all its bytes, and needs no more room.
    over: asyncio.Event = field(default_factory=asyncio.Event)
    leaving: asyncio.Future[None] | None = None  # Of a cancelled fill: done when its last read has ended.


class Running:
    """Track the running fills by number. Use from the event loop only."""

    def __init__(self) -> None:
        self._fills: dict[int, _Fill] = {}

    def begin(self, fill: int, source: str) -> None:
        self._fills[fill] = _Fill(source)

    def over(self, fill: int) -> None:
        """Forget the fill and wake those that wait for its room: it has released that, or become a snapshot."""
        if known := self._fills.pop(fill, None):
            known.over.set()

    @property
    def stopped(self) -> set[int]:
        return {number for number, fill in self._fills.items() if fill.stopped.is_set()}

    @property
    def stoppable(self) -> set[int]:
        """Fills that would release their room if they were stopped."""
        return {number for number, fill in self._fills.items() if not fill.past.is_set()}

    async def run(self, fill: int, work: Coroutine[Any, Any, T], leaving: Callable[[], Awaitable[None]]) -> T:
        """Run the part of the fill that may be stopped, and return its result. If it was stopped, raise AllHeld once
        that part has ended.

        `leaving` is called as soon as it is known that the fill will make no snapshot: reads that are under way end
        later.
        """
        known = self._fills[fill]
        task: asyncio.Task[T] = asyncio.ensure_future(work)
        task.add_done_callback(seen)  # It may fail by itself while it is being stopped.
        stopped = asyncio.ensure_future(known.stopped.wait())
        try:
            await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                known.past.set()
                return task.result()
            task.cancel()
            await leaving()
            await asyncio.wait([task])
            raise half_way(known.source)
        finally:
            stopped.cancel()
            if not task.done():
                task.cancel()
                known.leaving = asyncio.ensure_future(_both(leaving, task))
                known.leaving.add_done_callback(seen)
                await asyncio.shield(known.leaving)

    async def left(self, fill: int) -> None:
        """Wait until nothing is read for the fill any more: a caller that is cancelled twice leaves `run` before
        that."""
        known = self._fills.get(fill)
        if known is not None and known.leaving is not None:
            await asyncio.wait([known.leaving])

    async def stop(self, fill: int, for_: int) -> bool:
        """Stop one fill for another, wait until its room is free, and return True. Return False when it cannot be
        stopped, because it has all its bytes, or when the other has been stopped meanwhile: of two that would stop each
        other, one continues."""
        known, other = self._fills.get(fill), self._fills.get(for_)
        if known is None or (other is not None and other.stopped.is_set()):
            return False
        known.stopped.set()
        ends = [asyncio.ensure_future(event.wait()) for event in (known.over, known.past)]
        if other is not None:
            ends.append(asyncio.ensure_future(other.stopped.wait()))
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
        return known.over.is_set()


async def _both(leaving: Callable[[], Awaitable[None]], task: asyncio.Task[Any]) -> None:
    try:
        await leaving()
    finally:
        await asyncio.wait([task])


def half_way(source: str) -> AllHeld:
    return AllHeld(
        f"There is no more room for {source}: what would have gone for it is in use now, or an earlier fill needs it; "
        "what has landed is kept, so try again later, or release or unpin something."
    )
