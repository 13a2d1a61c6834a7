"""Publish small files in batches: those received close together are given their names together.

Each publication syncs every directory that it touches and rewrites pages all over the index. For thousands of small
files one by one, or few by few, that is more work than writing them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence

from cached.daemon.space.disk import Disk
from cached.store.publish import Arrival

MANY = 256  # Files in a batch that is published at once.
SECONDS = 0.2  # The longest that a file waits for others.


class Publishing:
    """Batch the publications of one disk. Use from the event loop only."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._coming = 0
        self._group: _Group | None = None  # The batch that still accepts files.
        self._running: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def coming(self) -> Iterator[None]:
        """Announce that during the block more files may be received, which are worth waiting for."""
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1
            asyncio.get_running_loop().call_soon(self._go_alone)  # When the block's files wait as well.

    async def publish(self, arrivals: Sequence[Arrival]) -> None:
        """Publish the arrivals by `Store.publish`, and return when they have their names. Raises its errors.

        A cancelled caller also returns only then: a file that is being published must not be used again meanwhile.
        """
        if not arrivals:
            return
        if self._group is None:
            self._group = _Group(self._go)
        group = self._group
        group.arrivals += arrivals
        if len(group.arrivals) >= MANY or not self._coming:
            self._go()
        try:
            await asyncio.shield(group.done)
        except asyncio.CancelledError:
            await asyncio.wait([group.done])
            raise

    def _go_alone(self) -> None:
        if not self._coming:
            self._go()

    def _go(self) -> None:
        """Publish the waiting batch now."""
        group, self._group = self._group, None
        if group is not None:
            group.timer.cancel()
            task = asyncio.create_task(self._run(group))
            self._running.add(task)  # The loop itself holds tasks weakly.
            task.add_done_callback(self._running.discard)

    async def _run(self, group: _Group) -> None:
        try:
            await self._disk.do(self._disk.store.publish, group.arrivals)
        except Exception as error:
            group.done.set_exception(error)
            group.done.exception()  # Retrieved, so that it is not logged when no caller waits any more.
        else:
            group.done.set_result(None)
        finally:
            if not group.done.done():  # The loop is being torn down: the waiting callers must end too.
                group.done.cancel()


class _Group:
    def __init__(self, late: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self.arrivals: list[Arrival] = []
        self.done: asyncio.Future[None] = loop.create_future()
        self.timer = loop.call_later(SECONDS, late)
