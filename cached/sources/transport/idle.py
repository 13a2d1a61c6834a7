"""Idle connections: kept for a while, separated by the credentials sent over them.

Bytes that one caller's request left on a connection (a surplus answer, say) can then reach that caller alone. No
connection is kept for longer than KEPT_SECONDS, even if no request follows: `sweep`, which the worker calls every
second, closes it.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Hashable
from typing import Protocol

from cached.sources.transport.http1 import Connection

KEPT_SECONDS = 30.0  # Servers end idle connections after a minute or so; a request on a dead one costs a round trip.
KEPT = 64  # Idle connections per origin and owner …
KEPT_IN_ALL = 256  # … and of one kind of source, in one process.


class _Keeper(Protocol):
    def sweep(self) -> None:
        """Close everything that has not been used for KEPT_SECONDS."""


_keepers: weakref.WeakSet[_Keeper] = weakref.WeakSet()
_registering = threading.Lock()


def register(keeper: _Keeper) -> None:
    with _registering:
        _keepers.add(keeper)


def sweep() -> None:
    """Close everything that has been idle for too long, wherever it is kept in this process."""
    with _registering:
        keepers = list(_keepers)
    for keeper in keepers:
        keeper.sweep()


class Idle:
    """Kept connections by key: destination and owner. Threads acquire one with `take` and release it with `give`."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, list[tuple[float, Connection]]] = {}  # The oldest first.
        self._count = 0
        self._lock = threading.Lock()
        register(self)

    def __len__(self) -> int:
        return self._count

    def take(self, key: Hashable) -> Connection | None:
        """Return the most recently used connection; None if there is none. Close those that the server has closed, or
        sent unrequested bytes on."""
        while (connection := self._pop(key)) is not None:
            if not connection.disturbed:
                return connection
            connection.close()
        return None

    def give(self, key: Hashable, connection: Connection) -> None:
        """Keep the connection; beyond the limits, close the oldest."""
        with self._lock:
            kept = self._kept.setdefault(key, [])
            kept.append((time.monotonic(), connection))
            self._count += 1
            if len(kept) <= KEPT and self._count <= KEPT_IN_ALL:
                return
            spare = self._oldest(key if len(kept) > KEPT else None)
        spare.close()

    def sweep(self) -> None:
        self._close_older(time.monotonic() - KEPT_SECONDS)

    def close(self) -> None:
        self._close_older(float("inf"))

    def _pop(self, key: Hashable) -> Connection | None:
        with self._lock:
            kept = self._kept.get(key)
            if not kept or kept[-1][0] < time.monotonic() - KEPT_SECONDS:
                return None  # The others are older still; they are swept.
            self._count -= 1
            return kept.pop()[1]

    def _oldest(self, key: Hashable | None) -> Connection:
        """Remove and return the oldest connection, of this key or else of all."""
        among = filter(None, self._kept.values()) if key is None else [self._kept[key]]
        kept = min(among, key=lambda kept: kept[0][0])
        self._count -= 1
        return kept.pop(0)[1]

    def _close_older(self, than: float) -> None:
        old: list[Connection] = []
        with self._lock:
            for key, kept in list(self._kept.items()):
                young = [pair for pair in kept if pair[0] >= than]
                old += [connection for since, connection in kept if since < than]
                if young:
                    self._kept[key] = young
                else:
                    del self._kept[key]  # The key stands for a caller's credentials.
            self._count -= len(old)
        for connection in old:
            connection.close()
