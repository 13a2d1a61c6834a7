"""Decide how many connections an origin gets, from its answers and its speed, without I/O."""

from __future__ import annotations

WINDOW = 1.0  # Seconds over which speed is measured.
GAIN = 1.05  # A further connection must bring at least this much.
SETTLED = 15.0  # Seconds before another one is tried after one brought nothing …
CHASTENED = 60.0  # … or after the origin asked for less.


class Pace:
    """The number of connections to one origin, between 1 and `most`, and the pause that it has requested.

    The limit climbs from `start` by one for as long as that makes the origin faster; it halves when the origin
    throttles. As many connections again, `extra` ones, may fetch small files, which wait more than they send, so large
    files never wait for small ones.
    """

    def __init__(self, start: int, most: int) -> None:
        self.most = most
        self.limit = min(start, most)
        self.active = self.extra = 0
        self.paused_until = 0.0
        self._window: tuple[float, int] | None = None
        self._base: float | None = None  # The speed that the connection on trial has to beat.
        self._hold_until = 0.0

    def __repr__(self) -> str:
        return f"<Pace {self.active}/{self.limit} of {self.most}>"

    def may_start(self, now: float) -> bool:
        return self.active < self.limit and now >= self.paused_until

    def may_start_extra(self, now: float) -> bool:
        """Return True if a connection for small files may start. An origin that bears only one connection gets no extra
        one."""
        room = self.extra < self.limit and self.active + self.extra < self.most
        return self.limit > 1 and room and now >= self.paused_until

    def measured(self, total: int, now: float) -> None:
        """Adjust the limit: `total` bytes have been received from this origin by the time `now` (seconds)."""
        if self._window is None or self.active < self.limit:
            self._window = now, total  # Only full use shows the effect of one more connection.
            return
        since, before = self._window
        if now - since < WINDOW:
            return
        self._window = now, total
        speed = (total - before) / (now - since)
        if self._base is not None:
            if speed > self._base * GAIN:
                self._try(speed)
            else:
                self.limit, self._base, self._hold_until = max(1, self.limit - 1), None, now + SETTLED
        elif now >= self._hold_until:
            self._try(speed)

    def _try(self, speed: float) -> None:
        if self.limit < self.most:
            self.limit, self._base = self.limit + 1, speed
        else:
            self._base = None

    def throttled(self, seconds: float, now: float) -> None:
        """Halve the limit and send nothing to the origin for `seconds`, after it answered 429 or 503."""
        if now >= self.paused_until:  # Once for all answers to requests that were in flight together.
            self.limit = max(1, self.limit // 2)
        self.paused_until = max(self.paused_until, now + seconds)
        self._base, self._window, self._hold_until = None, None, now + CHASTENED
