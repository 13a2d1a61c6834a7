"""Count received bytes in the threads that receive them, without a lock on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cached.worker.messages import Came


class Count:
    """The bytes of one call, written by its thread alone."""

    __slots__ = ("_told_came", "_told_done", "came", "done", "kept", "transfer")

    def __init__(self, transfer: int) -> None:
        self.transfer = transfer
        self.done = self.came = self.kept = 0
        self._told_done = self._told_came = 0

    def add(self, count: int) -> None:
        self.done += count
        self.came += count

    def news(self) -> tuple[int, int]:
        """Return the bytes that were added since the last call, done and received. Called by one thread at a time."""
        done, came = self.done, self.came
        found = done - self._told_done, came - self._told_came
        self._told_done, self._told_came = done, came
        return found


class Tally:
    """The counts of all calls that run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[Count] = set()
        self._ended: dict[int, tuple[int, int]] = {}

    @contextmanager
    def count(self, transfer: int) -> Iterator[Count]:
        count = Count(transfer)
        with self._lock:
            self._running.add(count)
        try:
            yield count
        except BaseException:
            count.done = count.kept  # The rest of a broken transfer will be received again.
            raise
        finally:
            with self._lock:
                self._running.discard(count)
                self._note(count)

    def _note(self, count: Count) -> None:
        done, came = count.news()
        before = self._ended.get(count.transfer, (0, 0))
        self._ended[count.transfer] = before[0] + done, before[1] + came

    def news(self) -> Came | None:
        """Return the bytes counted since the last call; None if there are none."""
        with self._lock:
            for count in self._running:
                self._note(count)
            counts = {transfer: pair for transfer, pair in self._ended.items() if pair != (0, 0)}
            self._ended.clear()
        return Came(counts) if counts else None


class Bandwidth:
    """A limit on bytes per second that threads share. 0 is no limit."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, count: int) -> None:
        """Account for received bytes; sleep for as long as they should have taken."""
        if not self._per_second:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + count / self._per_second
            pause = self._free_at - now
        time.sleep(pause)
