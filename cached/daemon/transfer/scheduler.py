"""Distribute the connections over origins, models and files, with retries where they help."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import math
import random
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from cached.daemon.transfer.connection_limit import Pace
from cached.daemon.transfer.fair_queue import Part, Turns, Work
from cached.daemon.transfer.users import User, Users
from cached.errors import CachedError, SizeMismatch, SourceUnavailable

log = logging.getLogger("cached.fetch")

FIRST_PAUSE = 0.2  # Seconds before the first retry; doubles, with jitter, up to LONGEST_PAUSE.
LONGEST_PAUSE = 10.0
IDLE = 256  # Origins without work whose pace is remembered.
LONGEST_ASKED = 60.0  # The longest Retry-After that is obeyed; past it, the caller should receive the origin's error.


@dataclass(slots=True)
class _Origin:
    pace: Pace
    turns: Turns = field(default_factory=Turns)
    came: int = 0
    turn: int = 0  # The turn in which it last got a connection.

    def rank(self, has: Mapping[User, int], number: int) -> tuple[int, int, int, int]:
        """Return a sort key; the lowest is served first. `number` orders origins that never got a connection."""
        return self.turns.least(has), self.pace.active + self.pace.extra, self.turn, number


class Streams:
    """Schedule reads: at most `most` parts at once over all origins, and of each origin as many as its Pace allows. The
    next part belongs to the user with the fewest connections.

    A read may last as long as its source likes. So that no user who holds all connections keeps the others waiting,
    each user is assured a quarter of `most`, even beyond `most`, up to twice as many in all.
    """

    def __init__(self, start: int, most: int, retries: int, users: Users | None = None) -> None:
        self._start, self._most, self._retries = start, most, retries
        self._users, self._by_user = users or Users(), Counter[User]()
        self._assured = max(1, most // 4)
        self._origins: dict[str, _Origin] = {}  # Those that have work, …
        self._idle: OrderedDict[str, _Origin] = OrderedDict()  # … and those that had, the last one last.
        self._ended: dict[Work, asyncio.Future[None]] = {}
        self._failed: dict[Work, BaseException] = {}
        self._active = 0
        self._turns = itertools.count(1)
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, work: Work) -> None:
        """Read every part of the file, and return when all have been read. The first part that fails for good ends the
        others, and its error is raised.

        However it ends, no thread reads for this file any more when it returns.
        """
        if not work.parts:
            return
        work.user = self._users.payer(work.group, self._by_user)
        ended = self._ended[work] = asyncio.get_running_loop().create_future()
        self._origin(work.origin).turns.add(work)
        self._dispatch()
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError:
            work.give_up()
            ended.add_done_callback(lambda late: late.exception())  # Retrieved, though no caller waits for it.
            if work.active:
                await asyncio.wait([ended])
            raise
        finally:
            work.give_up()
            self._ended.pop(work, None)

    def paused(self, origin: str) -> bool:
        """Return True if the origin has requested a pause that has not ended."""
        known = self._origins.get(origin) or self._idle.get(origin)
        return known is not None and time.monotonic() < known.pace.paused_until

    def came(self, origin: str, count: int) -> None:
        """Count `count` bytes received from the origin."""
        if origin in self._origins:
            self._origins[origin].came += count

    def _origin(self, name: str) -> _Origin:
        if name not in self._origins:
            known = self._idle.pop(name) if name in self._idle else None
            self._origins[name] = known or _Origin(Pace(self._start, self._most))
        return self._origins[name]

    def _put_aside(self) -> None:
        """Keep only the pace of origins that have no work, and only of the most recent ones."""
        for name in [name for name, origin in self._origins.items() if not origin.turns]:
            self._idle[name] = self._origins.pop(name)
        while len(self._idle) > IDLE:
            self._idle.popitem(last=False)

    def _dispatch(self) -> None:
        """Start the reads that may start, and schedule the next call for the end of the next pause."""
        now = time.monotonic()
        self._share_out(now)
        self._share_out(now, extra=True)  # From the connections that large files leave.
        self._put_aside()
        self._wake_later(now)

    def _share_out(self, now: float, extra: bool = False) -> None:
        """Start parts until no connection is free or no user may have it. The next part is of the user with the fewest
        connections, at the origin with the fewest, and between equal origins at the one that has waited longest."""
        origins = list(self._origins.values())
        waiting = [origin.rank(self._by_user, number) for number, origin in enumerate(origins)]
        heapq.heapify(waiting)
        while waiting and (below := self._below()):
            least, *_, number = waiting[0]
            origin = origins[number]
            may = origin.pace.may_start_extra(now) if extra else origin.pace.may_start(now)
            turn = origin.turns.take(now, extra, self._by_user, below) if may and least < below else None
            if turn is None:
                heapq.heappop(waiting)
                continue
            self._launch(origin, *turn, extra=extra)
            heapq.heapreplace(waiting, origin.rank(self._by_user, number))

    def _below(self) -> float:
        """Return the number of connections below which a user may have another; 0 if no user may."""
        if self._active < self._most:
            return math.inf
        return self._assured if self._active < 2 * self._most else 0

    def _launch(self, origin: _Origin, work: Work, part: Part, extra: bool = False) -> None:
        self._active += 1
        self._by_user[work.user] += 1
        origin.turn = next(self._turns)
        origin.pace.active += not extra
        origin.pace.extra += extra
        task = asyncio.create_task(self._read(origin, work, part))
        task.add_done_callback(lambda done: self._over(origin, work, extra, done))

    async def _read(self, origin: _Origin, work: Work, part: Part) -> None:
        try:
            await part.call()
        except (SourceUnavailable, SizeMismatch) as error:
            part.tries += 1
            if part.tries >= self._retries:
                raise
            self._put_back(origin, work, part, error)

    def _put_back(self, origin: _Origin, work: Work, part: Part, error: CachedError) -> None:
        if work.given_up:
            return
        now, pause = time.monotonic(), pause_after(part.tries, error)
        if isinstance(error, SourceUnavailable) and error.retry_after is not None:
            origin.pace.throttled(pause, now)
        work.resume_at = max(work.resume_at, now + pause)
        work.parts.append(part)
        log.warning("piece.retry", extra={"file": work.name, "why": error.message, "in": round(pause, 2)})

    def _over(self, origin: _Origin, work: Work, extra: bool, task: asyncio.Task[None]) -> None:
        """Record the end of one read. A file ends with its last read, so that no read outlives it."""
        origin.pace.measured(origin.came, time.monotonic())
        self._active -= 1
        self._by_user[work.user] -= 1
        if not self._by_user[work.user]:
            del self._by_user[work.user]
        origin.pace.active -= not extra
        origin.pace.extra -= extra
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        ended = self._ended.get(work)
        if error is not None:
            work.give_up()
            self._failed.setdefault(work, error)
        origin.turns.ended(work)
        if not work.parts and not work.active:
            failure = self._failed.pop(work, None)
            if ended is not None and not ended.done():
                if failure is None:
                    ended.set_result(None)
                else:
                    ended.set_exception(failure)
        self._dispatch()

    def _wake_later(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ends = []
        for origin in self._origins.values():
            resume = origin.turns.next_resume(now)
            paused = origin.pace.paused_until
            ends += [time for time in (resume, paused) if time is not None and time > now]
        if ends:
            self._timer = asyncio.get_running_loop().call_later(min(ends) - now + 0.001, self._dispatch)


def pause_after(tries: int, error: CachedError) -> float:
    """Return the seconds to wait after failed try `tries`: doubling each time, with jitter, and never less than the
    source requests (up to LONGEST_ASKED)."""
    own = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (tries - 1)) * random.uniform(0.5, 1.0)
    asked = error.retry_after if isinstance(error, SourceUnavailable) else None
    return max(own, min(asked or 0.0, LONGEST_ASKED))
