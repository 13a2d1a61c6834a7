"""Choose which part of which file is read next. Pure bookkeeping."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from cached.daemon.transfer.users import User

# Seconds before a file that is being read gets a second connection: others of its model may be about to begin, and a
# file is hashed in order, so that those that begin late end late.
ALONE = 0.02
_NOBODY: Mapping[User, int] = {}


@dataclass(eq=False, slots=True)
class Part:
    """A call that reads one part of a file, and the number of failed tries."""

    call: Callable[[], Awaitable[None]]
    tries: int = 0


@dataclass(eq=False, slots=True)
class Work:
    """The unread parts of one file, or of several small ones. `parts` are in reverse order: the next one is the last.
    `group` is the model that it belongs to; its connections count for `user`."""

    name: str
    origin: str
    group: str
    parts: list[Part]
    small: bool = False
    active: int = 0
    resume_at: float = 0.0  # Not before, after a failed try.
    shared_at: float = 0.0  # Not before, while it is being read.
    given_up: bool = False
    user: User = None

    @property
    def next_at(self) -> float:
        """Return the time from which its next part may be read."""
        return max(self.resume_at, self.shared_at) if self.active else self.resume_at

    def give_up(self) -> None:
        """Drop all unread parts; a read that fails from now on is not tried again."""
        self.given_up = True
        self.parts.clear()


@dataclass(slots=True)
class _Group:
    begun: list[Work] = field(default_factory=list)
    fresh: deque[Work] = field(default_factory=deque)
    user: User = None
    active: int = 0
    turn: int = 0  # The turn in which it last got a connection.

    def pick(self, now: float, small: bool) -> Work | None:
        """Return the next file. A begun file that has no reader goes first, so that files are hashed as they are
        received and end one by one."""
        ready = [work for work in self.begun if work.parts and work.next_at <= now and (work.small or not small)]
        idle = next((work for work in ready if not work.active), None)
        if idle is not None:
            return idle
        while self.fresh and not self.fresh[0].parts:  # Given up before its turn.
            self.fresh.popleft()
        work = next((work for work in self.fresh if work.parts and (work.small or not small)), None)
        if work is not None:
            self.fresh.remove(work)
            self.begun.append(work)
            work.shared_at = now + ALONE
            return work
        return min(ready, key=lambda work: work.active, default=None)


class Turns:
    """Queue the files that wait at one origin. Users take turns, and so do models, so that a small model need not wait
    for a large one. `has`: the connections of each user, over all origins."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}
        self._turns = itertools.count(1)

    def __bool__(self) -> bool:
        """Return True while something is waiting to be read or being read."""
        return bool(self._groups)

    def add(self, work: Work) -> None:
        group = self._groups.setdefault(work.group, _Group())
        group.fresh.append(work)
        group.user = work.user

    def least(self, has: Mapping[User, int]) -> int:
        """Return the smallest number of connections that a user who waits here has."""
        return min((has.get(group.user, 0) for group in self._groups.values()), default=0)

    def take(
        self, now: float, small: bool = False, has: Mapping[User, int] = _NOBODY, below: float = math.inf
    ) -> tuple[Work, Part] | None:
        """Return the next part, or None when nothing may be read now. It is chosen from the user with the fewest
        connections, if that has fewer than `below`; then from that user's model with the fewest; between equal models
        from the one that has waited longest for a connection. `small`: only small files."""
        groups = [group for group in self._groups.values() if has.get(group.user, 0) < below]
        for group in sorted(groups, key=lambda each: (has.get(each.user, 0), each.active, each.turn)):
            work = group.pick(now, small)
            if work is not None:
                group.turn = next(self._turns)
                work.active += 1
                group.active += 1
                return work, work.parts.pop()
        if small or len(groups) < len(self._groups):
            return None
        for group in self._groups.values():  # Files that were given up have nothing left to wait for.
            group.begun = [work for work in group.begun if work.parts or work.active]
        self._groups = {name: group for name, group in self._groups.items() if group.begun or group.fresh}
        return None

    def ended(self, work: Work) -> None:
        """Record that one read of this file has ended. Files with no parts and no reads are forgotten."""
        group = self._groups[work.group]
        work.active -= 1
        group.active -= 1
        if not work.parts and not work.active:
            group.begun.remove(work)
            if not group.begun and not group.fresh:
                del self._groups[work.group]

    def next_resume(self, now: float) -> float | None:
        """Return the earliest time at which a file that has to wait may continue; None if none waits."""
        times = [
            work.next_at for group in self._groups.values() for work in group.begun if work.parts and work.next_at > now
        ]
        return min(times, default=None)
