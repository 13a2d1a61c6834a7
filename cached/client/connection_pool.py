"""The pool of kept connections to the daemon's socket, on which requests are sent."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cached.errors import CachedError, DaemonUnavailable
from cached.wire import API, encode

if TYPE_CHECKING:
    from cached.client.connection import Connection

_ABSENT = (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)


class CancellableCall:
    """A request that another thread may cancel."""

    def __init__(self) -> None:
        self.cancelled = False
        self._connection: Connection | None = None

    def on(self, connection: Connection) -> None:
        """Record the connection that the call waits on. Raise ConnectionAbortedError if it was cancelled."""
        self._connection = connection
        if self.cancelled:
            raise ConnectionAbortedError("cancelled")

    def cancel(self) -> None:
        """Wake the thread that waits for the answer; nothing more is sent for this call."""
        self.cancelled = True
        if self._connection is not None:
            self._connection.abort()


class ConnectionPool:
    """A pool of connections that threads may share; it survives forks and daemon restarts.

    `timeout` in seconds bounds every wait for a sign of life.
    """

    def __init__(self, socket: str, timeout: float) -> None:
        self._socket, self._timeout = socket, timeout
        self._idle: list[Connection] = []

    def send(
        self,
        method: str,
        verb: str,
        body: Mapping[str, Any] | None,
        call: CancellableCall,
        deadline: float | None = None,
    ) -> Connection:
        """Send a request and return its connection. Raise DaemonUnavailable if no daemon answers. A kept connection
        that a restart has closed is replaced; on a silent one the daemon may have received the request, so it is not
        sent again."""
        payload = encode({**body, "api": API}) if body is not None else None
        while True:
            connection, fresh = self._connection()
            try:
                call.on(connection)
                connection.wait_at_most(self.patience(deadline))
                connection.send(method, verb, payload)
                return connection
            except OSError as error:
                connection.close()
                if fresh or isinstance(error, TimeoutError):
                    raise self.unavailable(error) from error

    def keep(self, connection: Connection) -> None:
        """Return a connection to the pool once its answer has been read to the end."""
        self._idle.append(connection)

    def patience(self, deadline: float | None) -> float:
        """Return the seconds to wait for the next sign of life."""
        return self._timeout if deadline is None else max(0.001, min(self._timeout, deadline - time.monotonic()))

    def unavailable(self, error: Exception) -> CachedError:
        """Return the DaemonUnavailable that states why the daemon could not be used, and the remedy."""
        if isinstance(error, DaemonUnavailable):
            return error
        if isinstance(error, _ABSENT):
            what = f"There is no cached daemon at {self._socket}; start it, or set CACHED_SOCKET."
        elif isinstance(error, PermissionError):
            what = f"You may not use {self._socket}: ask an operator to add you to the socket's group."
        elif isinstance(error, TimeoutError):
            what = f"The cached daemon at {self._socket} did not answer in time; see its log."
        else:
            what = f"The cached daemon at {self._socket} went away: {error}."
        return DaemonUnavailable(what)

    def close(self) -> None:
        """Close the kept connections."""
        while self._idle:
            self._idle.pop().close()

    def _connection(self) -> tuple[Connection, bool]:
        """Return a kept connection and False, or a new one and True."""
        from cached.client.connection import Connection  # Here: it doubles what `import cached` costs.

        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # Another thread was quicker.
                break
            if connection.pid == os.getpid():  # A forked child must not use its parent's connections.
                return connection, False
        return Connection(self._socket, self._timeout), True
