"""A kept HTTP connection to the daemon's socket. Separate from the client, because http.client is slow to import."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from cached.wire import API


class Connection:
    """A connection that raises only OSError: any error of http.client when the daemon disconnects becomes a
    ConnectionError."""

    def __init__(self, path: str, timeout: float) -> None:
        self.pid = os.getpid()
        self._http = _UnixHTTP(path, timeout)
        self._response: http.client.HTTPResponse | None = None

    def wait_at_most(self, seconds: float) -> None:
        """Set the limit, in seconds, of every wait for a sign of life from now on."""
        self._http.timeout = seconds
        if self._http.sock is not None:
            self._http.sock.settimeout(seconds)

    def send(self, method: str, verb: str, payload: bytes | None) -> None:
        """Send a request, and wait for the head of its answer. Without a payload the query states its `api`."""
        with _as_os_errors():
            headers = {"Content-Type": "application/json"} if payload else {}
            target = quote(verb) if payload else f"{quote(verb)}?api={API}"
            with self._http.in_one_piece():
                self._http.request(method, target, payload, headers)
            self._response = self._http.getresponse()

    @property
    def status(self) -> int:
        """Return the HTTP status of the answer."""
        assert self._response is not None  # `send` was called first.
        return self._response.status

    def lines(self) -> Iterator[bytes]:
        """Yield the answer's lines as they are received, until it ends. Raise ConnectionError if it is cut."""
        assert self._response is not None  # `send` was called first.
        with _as_os_errors():
            yield from iter(self._response.readline, b"")

    def rest(self) -> bytes:
        """Return the remaining bytes of the answer; after that, the connection can be used again."""
        assert self._response is not None
        with _as_os_errors():
            return self._response.read()

    def abort(self) -> None:
        """Wake the thread that waits for the answer. Called from another thread."""
        if self._http.sock is not None:
            with contextlib.suppress(OSError):
                self._http.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._http.close()


class _UnixHTTP(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path
        self._held: list[bytes] | None = None

    @contextlib.contextmanager
    def in_one_piece(self) -> Iterator[None]:
        """Send everything from the block in one piece at its end: http.client sends a head and its body separately, and
        each would wake the daemon."""
        self._held = []
        try:
            yield
            whole = b"".join(self._held)
        finally:
            self._held = None
        super().send(whole)

    def send(self, data: Any) -> None:
        if self._held is not None:
            self._held.append(data)
        else:
            super().send(data)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._path)
        except BaseException:
            self.sock.close()
            self.sock = None
            raise


@contextlib.contextmanager
def _as_os_errors() -> Iterator[None]:
    try:
        yield
    except http.client.HTTPException as error:
        raise ConnectionResetError(str(error) or type(error).__name__) from error
