"""The fast lane: one ranged GET whose body goes from the socket into a reused buffer, never becoming Python objects.

It takes the plain good case only (2xx, the range that was asked for, the version that was listed). Whatever else a
server says is left to the source's own reader, which knows what it means.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from cached.sources.transfer import Span, bytes_to_skip

SLICE = 256 * 1024  # Small enough to be hashed and written while it is still in the core's cache.
RECEIVE_BUFFER = 4 << 20  # Bytes that the kernel may hold while we hash.

Sink = Callable[[memoryview], None]
Judge = Callable[[http.client.HTTPResponse], bool]


@dataclass(frozen=True, slots=True)
class Request:
    """What a source signed: a URL and the headers that pin the version, the Range aside."""

    url: str
    headers: Mapping[str, str]


class Lanes:
    """Kept connections by origin. Threads take one and give it back."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, str], list[http.client.HTTPConnection]] = {}
        self._lock = threading.Lock()
        self._tls = ssl.create_default_context()
        self._buffers = threading.local()

    def stream(self, request: Request, span: Span, timeout: float, judge: Judge, sink: Sink) -> bool:
        """Give the span to `sink` in slices. False when the answer is not the plain good case: sink has got nothing.

        OSError when the connection fails, TimeoutError when the span takes longer than `timeout` seconds; sink may
        then have got a part.
        """
        parts = urlsplit(request.url)
        origin = parts.scheme, parts.netloc
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection, response = self._send(origin, target, {**request.headers, "Range": span.header}, timeout)
        done = False
        try:
            done = self._good(response, span, judge)
            if done:
                self._body(response, span, time.monotonic() + timeout, sink)
        except http.client.HTTPException as error:
            raise ConnectionResetError(type(error).__name__) from error
        finally:
            if done and response.isclosed() and not response.will_close:
                with self._lock:
                    self._idle.setdefault(origin, []).append(connection)
            else:
                connection.close()
        return done

    def close(self) -> None:
        with self._lock:
            for connections in self._idle.values():
                for connection in connections:
                    connection.close()
            self._idle.clear()

    def _send(
        self, origin: tuple[str, str], target: str, headers: Mapping[str, str], timeout: float
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """A kept connection that the server has closed meanwhile is replaced by a new one."""
        while True:
            connection, fresh = self._connection(origin, timeout)
            try:
                connection.request("GET", target, headers={"Accept-Encoding": "identity", **headers})
                return connection, connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if fresh:
                    raise error if isinstance(error, OSError) else ConnectionResetError(str(error)) from error

    def _connection(self, origin: tuple[str, str], timeout: float) -> tuple[http.client.HTTPConnection, bool]:
        with self._lock:
            kept = self._idle.get(origin)
            if kept:
                return kept.pop(), False
        scheme, place = origin
        if scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                place, timeout=timeout, context=self._tls
            )
        else:
            connection = http.client.HTTPConnection(place, timeout=timeout)
        connection.connect()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        return connection, True

    def _good(self, response: http.client.HTTPResponse, span: Span, judge: Judge) -> bool:
        if response.status not in (200, 206) or response.getheader("Content-Encoding", "identity") != "identity":
            return False
        length = response.getheader("Content-Length", "")
        skip = bytes_to_skip(
            span, response.status, response.getheader("Content-Range"), int(length) if length.isdigit() else None
        )
        return skip == 0 and judge(response)

    def _body(self, response: http.client.HTTPResponse, span: Span, deadline: float, sink: Sink) -> None:
        view = self._buffer()
        missing = span.length
        while missing:
            count = response.readinto(view[: min(SLICE, missing)])
            if not count:
                raise ConnectionResetError("the body ended early")
            if time.monotonic() > deadline:
                raise TimeoutError
            sink(view[:count])
            missing -= count
        if response.length:  # A server that ignores ranges: the connection carries the rest of the file.
            response.close()
            response.will_close = True
        else:
            response.read()

    def _buffer(self) -> memoryview:
        view: memoryview | None = getattr(self._buffers, "view", None)
        if view is None:
            view = self._buffers.view = memoryview(bytearray(SLICE))
        return view
