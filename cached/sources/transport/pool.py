"""The fast path: one ranged GET whose body goes from the socket into a reused buffer, never becoming Python objects.
Listings in one piece and proofs of access use it too.

It accepts only the plain good case (2xx, the requested range, the listed version). All other answers are left to the
source's own reader, which understands them.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import urlsplit

from cached import budget
from cached.model_ref import ModelRef
from cached.sources.transport.failures import connection_failed
from cached.sources.transport.http1 import Answer, BodyTooLong, Connection, MalformedAnswer
from cached.sources.transport.idle import Idle
from cached.sources.transport.ranges import Span, bytes_to_skip, unavailable

__all__ = ["Answer", "Judge", "Lanes", "Request", "Sink", "lane_errors"]

SLICE = 512 * 1024  # Small enough to be hashed and written while it is still in the core's cache.
LOW_SPEED = 1024  # Bytes per second, over a whole time-out, below which a connection is as good as dead.

MAX_TEXT = 16 << 20  # Bytes of one page of a listing; 1,000 objects take two million at most.
MAX_WORDS = 8 << 10  # Bytes of a refusal's text.

_PORTS = {"http": 80, "https": 443}
_NOTHING: Mapping[str, str] = MappingProxyType({})

Sink = Callable[[memoryview], None]
Judge = Callable[[Answer], bool]


@dataclass(frozen=True, slots=True)
class Request:
    """A request that a source signed: a URL and the headers that pin the version, without the Range. A GET, unless
    another method was signed.

    `place` is the URL's host, and port if it names one; `target` its path and query. `owner` stands for the credentials
    of the request, None for none: connections are separated by it. `check_peer` raises on addresses that no caller and
    no redirect may lead to.
    """

    scheme: str
    place: str
    target: str = field(repr=False)  # It may be signed.
    headers: Mapping[str, str] = field(repr=False)
    owner: Hashable = field(repr=False)
    check_peer: Callable[[str], None] | None = None

    @classmethod
    def of(
        cls, url: str, headers: Mapping[str, str], owner: Hashable, check_peer: Callable[[str], None] | None = None
    ) -> Request:
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.scheme, parts.netloc.rpartition("@")[2], target, headers, owner, check_peer)

    @property
    def way(self) -> Hashable:
        """Return the key of the connections that may be reused for this request."""
        return self.scheme, self.place, self.owner


class Throttled(OSError):
    """The origin asks for fewer requests."""

    def __init__(self, status: int, retry_after: str | None, words: bytes = b"") -> None:
        super().__init__(f"HTTP {status}")
        self.outage = status >= 500 and b"SlowDown" not in words  # S3's word for 429.
        self.retry_after = retry_after


class TooLong(OSError):
    """The body has more than MAX_TEXT bytes. The full client has no bound, and must not repeat the request."""


class TooSlow(TimeoutError):
    """The remote sends bytes, but next to none."""


class lane_errors:
    """Translate the fast path's errors to ours. A class, because it is entered for each small file."""

    __slots__ = ("_ref",)

    def __init__(self, ref: ModelRef) -> None:
        self._ref = ref

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError):
            return
        match error:
            case Throttled():
                after = error.retry_after or "0"
                raise unavailable(self._ref, str(error), after, seen=error.outage) from None
            case TooLong():
                raise unavailable(self._ref, "its answer is too long") from None
            case TooSlow():
                raise unavailable(self._ref, "it sends too slowly") from None
            case _:  # Silence too: the fast path waits only for the remote.
                raise connection_failed(self._ref, error) from None


class Lanes:
    """The fast path over kept connections by origin. Threads acquire a connection and release it."""

    def __init__(self) -> None:
        self._idle = Idle()
        self._tls = ssl.create_default_context()
        self._tls.set_alpn_protocols(["http/1.1"])
        self._buffers = threading.local()
        self._proxies = urllib.request.getproxies()

    def stream(self, request: Request, span: Span, timeout: float, judge: Judge, sink: Sink) -> bool:
        """Pass the span to `sink` in slices. Return False if the answer is not the plain good case: `sink` has received
        nothing.

        Raise OSError if the connection fails, Throttled if the origin asks for fewer requests, TimeoutError if fewer
        than LOW_SPEED bytes per second are received over `timeout` seconds; `sink` may then have received a part.
        """
        if self._behind_proxy(request):
            return False
        connection, answer = self._ask(request, timeout, {"Range": span.header})
        kept = False
        try:
            if answer.status in (429, 503):
                raise _throttled(connection, answer, timeout)
            if not _plain(answer, span) or not judge(answer):
                return False
            self._body(connection, span, timeout, sink)
            if answer.length == span.length and connection.overrun:
                raise ConnectionResetError("the body went on after its end")
            kept = answer.keeps and answer.length == span.length
        finally:
            self._give_back(request, connection, kept)
        return True

    def text(self, request: Request, timeout: float) -> tuple[Answer, bytes] | None:
        """Return a plain 200 and its complete body; None for any other answer. Raise OSError as `stream` does, also for
        every 5xx, and TooLong.

        The request is charged to the budget, as a page.
        """
        if self._behind_proxy(request):
            return None
        budget.page()
        timeout = budget.seconds_left(timeout)
        connection, answer = self._ask(request, timeout)
        kept = False
        try:
            if answer.status == 429 or answer.status >= 500:
                raise _throttled(connection, answer, timeout)
            if answer.status != 200 or answer.headers.get("content-encoding", "identity") != "identity":
                return None
            deadline = time.monotonic() + timeout
            if answer.chunked:
                try:
                    body = connection.chunks(MAX_TEXT, deadline)
                except BodyTooLong:
                    raise TooLong from None
                except MalformedAnswer:  # Nothing has been returned: the full client may repeat the request.
                    return None
            elif answer.length is None:
                return None
            elif answer.length > MAX_TEXT:
                raise TooLong
            else:
                body = _whole(connection, answer.length, deadline)
            budget.read(len(body))
            kept = answer.keeps and not connection.overrun
        finally:
            self._give_back(request, connection, kept)
        return answer, body

    def granted(self, request: Request, timeout: float, judge: Judge) -> bool:
        """Return True if the signed HEAD gets a plain 200 that `judge` accepts. Raise OSError as `stream` does."""
        if self._behind_proxy(request):
            return False
        connection, answer = self._ask(request, timeout, method="HEAD")
        connection.close()  # If the server sends a body all the same, it must not be taken for the next answer.
        if answer.status == 429 or answer.status >= 500:
            raise Throttled(answer.status, answer.headers.get("retry-after"))
        return answer.status == 200 and judge(answer)

    def close(self) -> None:
        self._idle.close()

    def _behind_proxy(self, request: Request) -> bool:
        """Return True if the request needs a proxy: proxies are left to the full clients."""
        return request.scheme in self._proxies and not urllib.request.proxy_bypass(_host_port(request)[0])

    def _ask(
        self, request: Request, timeout: float, extra: Mapping[str, str] = _NOTHING, method: str = "GET"
    ) -> tuple[Connection, Answer]:
        """Send a request, and return the connection and its answer. A kept connection that the server has closed
        meanwhile is replaced by a new one."""
        headers = {"Accept-Encoding": "identity", **request.headers, **extra}
        headers.pop("Host", None)
        while True:
            connection, fresh = self._connection(request, timeout)
            try:
                if request.check_peer:
                    request.check_peer(connection.peer)
                return connection, connection.ask(method, request.target, request.place, headers)
            except ConnectionError:
                connection.close()
                if fresh:
                    raise
            except BaseException:
                connection.close()
                raise

    def _connection(self, request: Request, timeout: float) -> tuple[Connection, bool]:
        """Return a kept connection and False, or a new one and True."""
        kept = self._idle.take(request.way)
        if kept is not None:
            kept.within(timeout)
            return kept, False
        return Connection(request.scheme, *_host_port(request), timeout, self._tls), True

    def _give_back(self, request: Request, connection: Connection, kept: bool) -> None:
        if kept:
            self._idle.give(request.way, connection)
        else:
            connection.close()

    def _body(self, connection: Connection, span: Span, timeout: float, sink: Sink) -> None:
        view = self._buffer()
        missing, window, came = span.length, time.monotonic(), 0
        while missing:
            count = connection.readinto(view[: min(SLICE, missing)])
            sink(view[:count])
            missing -= count
            came += count
            now = time.monotonic()
            if now - window >= timeout:
                if came < LOW_SPEED * timeout and missing:
                    raise TooSlow
                window, came = now, 0

    def _buffer(self) -> memoryview:
        view: memoryview | None = getattr(self._buffers, "view", None)
        if view is None:
            view = self._buffers.view = memoryview(bytearray(SLICE))
        return view


def _throttled(connection: Connection, answer: Answer, timeout: float) -> Throttled:
    """Return the error for a refusal, with the text of the answer if it is short."""
    words, deadline = b"", time.monotonic() + timeout
    with contextlib.suppress(OSError):
        if answer.chunked:
            words = connection.chunks(MAX_WORDS, deadline)
        elif answer.length is not None and answer.length <= MAX_WORDS:
            words = _whole(connection, answer.length, deadline)
    return Throttled(answer.status, answer.headers.get("retry-after"), words)


def _host_port(request: Request) -> tuple[str, int]:
    parts = urlsplit(f"//{request.place}")
    return parts.hostname or "", parts.port or _PORTS[request.scheme]


def _whole(connection: Connection, length: int, deadline: float) -> bytes:
    body = memoryview(bytearray(length))
    got = 0
    while got < length:
        if time.monotonic() > deadline:
            raise TooSlow
        budget.check()
        got += connection.readinto(body[got:])
    return bytes(body)


def _plain(answer: Answer, span: Span) -> bool:
    """Return True if the body begins with the span, uncompressed and of known length."""
    if answer.status not in (200, 206) or answer.headers.get("content-encoding", "identity") != "identity":
        return False
    if answer.length is None:
        return False
    return bytes_to_skip(span, answer.status, answer.headers.get("content-range"), answer.length) == 0
