"""HTTP clients, one for each owner of credentials: bytes left on a connection of one owner reach no other.

They share the TLS context, which takes a while to make. A client that has not been used for KEPT_SECONDS is closed, and
its connections with it.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx2

from cached.sources.transport.header_deadline import bounded
from cached.sources.transport.idle import KEPT_SECONDS, register

CLIENTS = 32  # Idle clients that are kept.


class _Owned:
    def __init__(self, client: httpx2.Client) -> None:
        self.client = client
        self.users = 0
        self.since = 0.0  # When its last user released it.


class Clients:
    """HTTP clients by owner: `of` lends one, which the threads of one owner share."""

    def __init__(self, connections: int) -> None:
        self._connections = connections
        self._tls: ssl.SSLContext = httpx2.create_ssl_context()
        self._owned: OrderedDict[Hashable, _Owned] = OrderedDict()  # The last used comes last.
        self._lock = threading.Lock()
        register(self)

    def __len__(self) -> int:
        return len(self._owned)

    @contextmanager
    def of(self, owner: Hashable) -> Iterator[httpx2.Client]:
        with self._lock:
            owned = self._owned.get(owner)
            if owned is None:
                owned = self._owned[owner] = _Owned(self._make())
            owned.users += 1
        try:
            _drop_disturbed(owned.client)
            yield owned.client
        finally:
            with self._lock:
                owned.users -= 1
                owned.since = time.monotonic()
                if owner in self._owned:
                    self._owned.move_to_end(owner)
            self._close_idle(float("-inf"))

    def sweep(self) -> None:
        self._close_idle(time.monotonic() - KEPT_SECONDS)

    def close(self) -> None:
        with self._lock:
            owned = list(self._owned.values())
            self._owned.clear()
        for one in owned:
            one.client.close()

    def _close_idle(self, before: float) -> None:
        """Close the idle clients that have not been used since `before`, and those beyond CLIENTS."""
        with self._lock:
            idle = [(owner, owned) for owner, owned in self._owned.items() if not owned.users]
            spare = len(idle) - CLIENTS
            old = [pair for at, pair in enumerate(idle) if at < spare or pair[1].since < before]
            for owner, _ in old:
                del self._owned[owner]
        for _, owned in old:
            owned.client.close()

    def _make(self) -> httpx2.Client:
        return bounded(
            httpx2.Client(
                verify=self._tls,
                follow_redirects=False,
                timeout=None,
                limits=httpx2.Limits(
                    max_connections=None,
                    max_keepalive_connections=self._connections + 4,
                    keepalive_expiry=KEPT_SECONDS,
                ),
                headers={"User-Agent": "cached", "Accept-Encoding": "identity"},
                # One caller's session must never ride on another caller's request.
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            )
        )


def _drop_disturbed(client: httpx2.Client) -> None:
    """Close idle connections that received more than was requested: h11 would take it for the next answer."""
    for transport in (client._transport, *client._mounts.values()):
        pool: Any = getattr(transport, "_pool", None)
        for connection in list(pool.connections) if pool is not None else ():
            state = getattr(getattr(connection, "_connection", None), "_h11_state", None)
            if state is not None and connection.is_idle() and state.trailing_data[0]:
                connection.close()
