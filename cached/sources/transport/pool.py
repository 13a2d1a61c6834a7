"""The fast lane: one ranged GET whose body goes from the socket into a reused buffer, never becoming Python objects.
Listings in one piece and proofs of access take it too.

It takes the plain good case only (2xx, the range that was asked for, the version that was listed). Whatever else a
server says is left to the source's own reader, which knows what it means.
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
MAX_WORDS = 8 << 10  # Of a refusal.

_PORTS = {"http": 80, "https": 443}
_NOTHING: Mapping[str, str] = MappingProxyType({})

Sink = Callable[[memoryview], None]
Judge = Callable[[Answer], bool]


@dataclass(frozen=True, slots=True)
class Request:
    """What a source signed: a URL and the headers that pin the version, the Range aside. A GET, if it signed no other.

    `place` is the URL's host, and port if it says one; `target` its path and query. `owner` stands for the credentials
    for which it is made, None for nobody's: connections are kept apart by it. `check_peer` raises on addresses that
    no caller and no redirect may lead to.
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
        """What a connection must have been used for to be used for this."""
        return self.scheme, self.place, self.owner


class Throttled(OSError):
    """The origin asks for fewer requests."""

    def __init__(self, status: int, retry_after: str | None, words: bytes = b"") -> None:
        super().__init__(f"HTTP {status}")
        self.outage = status >= 500 and b"SlowDown" not in words  # S3's word for 429.
        self.retry_after = retry_after


class TooLong(OSError):
    """The body has more than MAX_TEXT bytes. The full client has no bound, and must not ask again."""


class TooSlow(TimeoutError):
    """Bytes come, but next to none."""


class lane_errors:
    """The lane's errors as ours. A class, because it is entered for each small file."""

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
            case _:  # Silence too: the lane waits for nobody but the remote.
                raise connection_failed(self._ref, error) from None


class Lanes:
    """Kept connections by origin. Threads take one and give it back."""

    def __init__(self) -> None:
        self._idle = Idle()
        self._tls = ssl.create_default_context()
        self._tls.set_alpn_protocols(["http/1.1"])
        self._buffers = threading.local()
        self._proxies = urllib.request.getproxies()

    def stream(self, request: Request, span: Span, timeout: float, judge: Judge, sink: Sink) -> bool:
        """Give the span to `sink` in slices. False when the answer is not the plain good case: sink has got nothing.

        OSError when the connection fails, Throttled when the origin asks for less, TimeoutError when fewer than
        LOW_SPEED bytes per second come over `timeout` seconds; sink may then have got a part.
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
        """A plain 200 and its whole body, None of anything else. OSError as `stream`, of every 5xx too, and TooLong.

        Charged to the budget, as a page.
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
                except MalformedAnswer:  # Nothing has been given out: the full client may ask again.
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
        """Whether a HEAD, which is what was signed, is answered with a plain 200 as `judge` knows it. OSError as
        `stream`."""
        if self._behind_proxy(request):
            return False
        connection, answer = self._ask(request, timeout, method="HEAD")
        connection.close()  # Should the server send a body all the same, it must not be taken for the next answer.
        if answer.status == 429 or answer.status >= 500:
            raise Throttled(answer.status, answer.headers.get("retry-after"))
        return answer.status == 200 and judge(answer)

    def close(self) -> None:
        self._idle.close()

    def _behind_proxy(self, request: Request) -> bool:
        """Proxies are for the full clients."""
        return request.scheme in self._proxies and not urllib.request.proxy_bypass(_host_port(request)[0])

    def _ask(
        self, request: Request, timeout: float, extra: Mapping[str, str] = _NOTHING, method: str = "GET"
    ) -> tuple[Connection, Answer]:
        """A kept connection that the server has closed meanwhile is replaced by a new one."""
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
        """A kept connection or a new one, and whether it is new."""
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
    """With the words of the answer, if they are few."""
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
    """Whether the body begins with the span, uncompressed and of known length."""
    if answer.status not in (200, 206) or answer.headers.get("content-encoding", "identity") != "identity":
        return False
    if answer.length is None:
        return False
    return bytes_to_skip(span, answer.status, answer.headers.get("content-range"), answer.length) == 0
