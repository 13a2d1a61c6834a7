"""Limit the large files that are open at once. A file keeps its turn until its last byte, however slow, so no user may
have so many that the next user, or the user's next model, finds no turn free."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Collection, Iterator

from cached.daemon.transfer.users import User, Users

OF_MODEL, OF_USER, OF_FIRSTS, OF_NODE = 2, 3, 4, 8  # Times as many as there are connections.

_Turn = asyncio.Future[User]


class OpenFiles:
    """Grant turns to open large files. Use from the event loop only.

    1. A model has twice as many files open as there are connections: these stay busy while some of its files begin and
       end.
    2. A user has three times as many, beyond which only a model that has none open gets its first one, up to four times
       as many.
    3. The node has eight times as many, beyond which only a user that has none gets a first one.

    Waiting turns are granted by need: first the user with the fewest open files, then its model with the fewest, then
    the one that has waited longest. A worker has two descriptors for each file, three when it copies from another root;
    the unit's LimitNOFILE covers that.
    """

    def __init__(self, connections: int, users: Users | None = None) -> None:
        self._connections = connections
        self._users = users or Users()
        self._open, self._by_user, self._by_model = 0, Counter[User](), Counter[str]()
        # By model, in the order of their last turns, the oldest first. None of them may have a turn now.
        self._waiting: OrderedDict[str, OrderedDict[_Turn, None]] = OrderedDict()

    @contextlib.contextmanager
    def wanted(self, model: str, uids: Collection[int]) -> Iterator[None]:
        """Count these users as wanting the model for the length of the block. Call `give` after adding others to
        `uids`."""
        with self._users.fetching(model, uids):
            if model in self._waiting:
                self.give()
            yield

    @contextlib.asynccontextmanager
    async def turn(self, model: str) -> AsyncIterator[None]:
        """Wait for a turn to open one file of the model, and hold it for the length of the block."""
        at_once = model not in self._waiting and self._may(model)
        user = self._take(model) if at_once else await self._wait(model)
        try:
            yield
        finally:
            self._leave(model, user)

    def give(self) -> None:
        """Grant the free turns to waiting models."""
        self._pass_over()
        while (model := self._next()) is not None:
            turns = self._waiting.pop(model)
            turn, _ = turns.popitem(last=False)
            if turns:
                self._waiting[model] = turns  # Behind the others.
            if not turn.done():  # Else given up as well.
                turn.set_result(self._take(model))

    def _pass_over(self) -> None:
        """Drop the turns at the head of each queue that were given up and have not removed themselves yet. All at once,
        because many often go together and each search for the next turn goes through all models."""
        for model, turns in list(self._waiting.items()):
            while turns and next(iter(turns)).done():
                turns.popitem(last=False)
            if not turns:
                del self._waiting[model]

    async def _wait(self, model: str) -> User:
        turn: _Turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(model, OrderedDict())[turn] = None
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._drop(model, turn)
            else:  # The turn was granted in the moment in which it was given up.
                self._leave(model, turn.result())
            raise

    def _drop(self, model: str, turn: _Turn) -> None:
        turns = self._waiting.get(model, OrderedDict())
        turns.pop(turn, None)
        if not turns:
            self._waiting.pop(model, None)

    def _take(self, model: str) -> User:
        """Open one file of the model, and return the user that it counts for."""
        user = self._payer(model)
        self._open += 1
        self._by_user[user] += 1
        self._by_model[model] += 1
        return user

    def _leave(self, model: str, user: User) -> None:
        self._open -= 1
        self._by_user[user] -= 1
        self._by_model[model] -= 1
        if not self._by_user[user]:
            del self._by_user[user]
        if not self._by_model[model]:
            del self._by_model[model]
        self.give()

    def _next(self) -> str | None:
        """Return the model to serve first among those that may have another file open; None if there is none."""
        ready = (model for model in self._waiting if self._may(model))
        return min(ready, key=lambda model: (self._by_user[self._payer(model)], self._by_model[model]), default=None)

    def _may(self, model: str) -> bool:
        """Return True if the model may have another file open."""
        its, has = self._by_model[model], self._by_user[self._payer(model)]
        if its >= OF_MODEL * self._connections:
            return False
        if self._open >= OF_NODE * self._connections:
            return not has
        return has < (OF_USER if its else OF_FIRSTS) * self._connections

    def _payer(self, model: str) -> User:
        return self._users.payer(model, self._by_user)
