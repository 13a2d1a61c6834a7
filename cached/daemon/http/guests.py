"""Bound the open connections: per user, and all together, so that files can always be opened."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Hashable
from typing import Protocol

GRACE_SECONDS = 1.0  # A silent connection is not idle before that.
LOOK_SECONDS = 0.25
SHARE = 4  # No user but root and the daemon's own may have more than one in this many of all connections.


class Guest(Protocol):
    """A connection. `idle` is True while no request is in progress; `active_at` is the loop's time when it last sent
    something."""

    owner: Hashable
    active_at: float

    @property
    def idle(self) -> bool: ...

    def dismiss(self) -> None:
        """Close the connection now."""


class Guests:
    """Count the connections of each owner, and close idle ones to keep the bounds. Use from the event loop only."""

    def __init__(self, total: int, per_owner: int) -> None:
        self._total, self._per_owner = total, min(per_owner, max(1, total // SHARE))
        self._here: dict[Guest, None] = {}
        self._counts: Counter[Hashable] = Counter()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._here)

    async def room(self) -> None:
        """Return once there is room for one more connection. The owner with the most connections loses one that is
        idle."""
        while len(self._here) >= self._total:
            self._changed.clear()
            if (guest := self._idlest(self._crowd())) is not None:
                guest.dismiss()
                self.leave(guest)
                return
            try:
                await asyncio.wait_for(self._changed.wait(), LOOK_SECONDS)
            except TimeoutError:
                pass

    def enter(self, guest: Guest, unbound: bool) -> bool:
        """Count the connection. Return False when its owner has as many as it may and none is idle. `unbound`: only the
        total is bounded."""
        if not unbound and self._counts[guest.owner] >= self._per_owner:
            if (oldest := self._idlest(guest.owner)) is None:
                return False
            oldest.dismiss()
            self.leave(oldest)
        self._here[guest] = None
        self._counts[guest.owner] += 1
        return True

    def leave(self, guest: Guest) -> None:
        """Stop counting the connection. Does nothing if it has left already."""
        if guest not in self._here:
            return
        del self._here[guest]
        self._counts[guest.owner] -= 1
        if not self._counts[guest.owner]:
            del self._counts[guest.owner]
        self._changed.set()

    def _crowd(self) -> Hashable:
        """Return the owner with the most connections."""
        return self._counts.most_common(1)[0][0]

    def _idlest(self, owner: Hashable) -> Guest | None:
        before = asyncio.get_running_loop().time() - GRACE_SECONDS
        idle = [guest for guest in self._here if guest.owner == owner and guest.idle and guest.active_at <= before]
        return min(idle, key=lambda guest: guest.active_at, default=None)
