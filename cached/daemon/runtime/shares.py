"""Share a bounded number of turns among users, so that no user has all of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator

from cached.errors import Overloaded

SHARE = 4  # A user may have one in this many of all turns …
WAITING = 256  # … and this many more requests waiting.

_Turn = asyncio.Future[None]


class Shares:
    """Grant turns to users. Use from the event loop only. The daemon itself (None) is a user like others."""

    def __init__(self, together: int) -> None:
        """Share `together` turns at a time."""
        self._free, self._most = together, max(1, together // SHARE)
        self._running: dict[int | None, int] = {}
        self._waiting: OrderedDict[int | None, deque[_Turn]] = OrderedDict()  # The next user comes first.

    @contextlib.asynccontextmanager
    async def turn(self, uid: int | None) -> AsyncIterator[None]:
        """Wait for a turn, and hold it for the length of the block. Raises Overloaded when too many of this user's
        requests wait already."""
        await self._wait(uid)
        try:
            yield
        finally:
            self._leave(uid)

    async def _wait(self, uid: int | None) -> None:
        queue = self._waiting.setdefault(uid, deque())
        if len(queue) >= WAITING:
            raise Overloaded(f"{WAITING} of your requests wait for their turn already; try again later.")
        turn: _Turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        self._go_on()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._drop(uid, turn)
            else:  # The turn was granted in the moment in which it was given up.
                self._leave(uid)
            raise

    def _drop(self, uid: int | None, turn: _Turn) -> None:
        queue = self._waiting.get(uid, deque())
        if turn in queue:  # Otherwise another caller that left in the same moment has removed it already.
            queue.remove(turn)
            if not queue:
                del self._waiting[uid]

    def _leave(self, uid: int | None) -> None:
        self._free += 1
        self._running[uid] -= 1
        if not self._running[uid]:
            del self._running[uid]
        self._go_on()

    def _go_on(self) -> None:
        """Grant the free turns to waiting users, in turn."""
        while self._free and (uid := self._next()) is not _NOBODY:
            queue = self._waiting.pop(uid)
            turn = queue.popleft()
            if queue:
                self._waiting[uid] = queue  # Behind the others.
            if not turn.done():
                self._free -= 1
                self._running[uid] = self._running.get(uid, 0) + 1
                turn.set_result(None)

    def _next(self) -> int | None:
        may = (uid for uid in self._waiting if self._running.get(uid, 0) < self._most)
        return next(may, _NOBODY)


_NOBODY = -2  # No uid, and not None, which is the daemon.
