"""Room for incoming bytes, requested from the daemon once the first are here: nothing is evicted for bytes that never
arrive."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping

from cached.errors import CachedError
from cached.store.blobs.ingest import ALLOCATED, Ingest, Piece
from cached.worker.channel import Channel
from cached.worker.messages import Granted, Wanting

Ask = Callable[[Mapping[str, int]], None]  # Returns when there is room for so many bytes of each key, or raises.


class RoomRequests:
    """Requests for room that wait for the daemon's answer. Any thread may `ask`; the receiving thread calls `hear`."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[threading.Event, list[CachedError | None]]] = {}

    def ask(self, transfer: int, steps: Mapping[str, int]) -> None:
        """Request room and wait for it. Raise the daemon's error if it refuses. Without a daemon this process ends."""
        number = next(self._numbers)
        heard, answer = self._waiting[number] = threading.Event(), []
        self._channel.send(Wanting(number, transfer, steps))
        heard.wait()
        if answer[0] is not None:
            raise answer[0]

    def hear(self, granted: Granted) -> None:
        heard, answer = self._waiting.pop(granted.number)
        answer.append(granted.error)
        heard.set()


class Ahead:
    """Request room for one large file step by step: ALLOCATED bytes at a time are allocated, from its beginning."""

    def __init__(self, ask: Ask, key: str, ingest: Ingest) -> None:
        self._ask, self._key, self._ingest = ask, key, ingest
        self._asking = threading.Lock()
        self._secured = 0

    def of(self, piece: Piece) -> None:
        """Wait until this piece may be written. Raise the daemon's error if it refuses room."""
        size = self._ingest.entry.size
        end = min(size, -(-(piece.offset + piece.length) // ALLOCATED) * ALLOCATED)
        # Bytes that were written beyond, in an earlier try, take room as well.
        beyond = size - end - sum(each.length for each in self._ingest.missing() if each.offset >= end)
        with self._asking:
            if end + beyond > self._secured:
                self._ask({self._key: end + beyond})
                self._secured = end + beyond
