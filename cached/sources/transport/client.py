"""The HTTP client of every source that speaks plain HTTP: redirects by hand, deadlines, no cookies."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx2

from cached import budget
from cached.errors import InvalidRequest, SourceUnavailable
from cached.model_ref import ModelRef
from cached.sources.transport.blocked_hosts import Addresses
from cached.sources.transport.clients import Clients
from cached.sources.transport.failures import connection_failed
from cached.sources.transport.header_deadline import head_within
from cached.sources.transport.http1 import head
from cached.sources.transport.ranges import Collector, Span, bytes_to_skip, unavailable

MAX_REDIRECTS = 10
MAX_JSON_BYTES = 32 << 20  # The limit of one answer: a Hub may give a commit of 100,000 files in one page.
LARGE_JSON_BYTES = 1 << 20  # From here on answers are decoded one at a time: decoded, one may take many times its size.
CONNECT_TIMEOUT = 10.0

Judge = Callable[[httpx2.Response], None]
_PORTS = {"http": 80, "https": 443}
_large = threading.Lock()


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port. Raise InvalidRequest if the URL is malformed."""
    try:
        parts = urlsplit(url)
        return parts.scheme, (parts.hostname or "").lower(), parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        raise InvalidRequest("A source leads to a malformed URL; nothing was fetched from there.") from None


def wire_url(url: str) -> str:
    """Return the URL as it is sent: in ASCII, with all characters quoted that need it. Raise InvalidRequest if
    malformed."""
    try:
        return str(httpx2.URL(url))
    except httpx2.InvalidURL:
        raise InvalidRequest("A source leads to a malformed URL; nothing was fetched from there.") from None


def owner_of(private: Mapping[str, str]) -> Hashable:
    """Return a key for the owner of the credentials in these headers; None if there are none."""
    return tuple(sorted(private.items())) or None


@dataclass(frozen=True, slots=True, repr=False)
class HttpRequest:
    """A request as it is sent first, and the limits of its redirects.

    `trusted` says that the operator, not a caller, chose the host of `endpoint`: the URL itself if it is not given.
    `private` headers (tokens) go there only. `hop` is called with each redirect before it is followed.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    private: Mapping[str, str] = field(default_factory=dict)
    trusted: bool = True
    endpoint: str = ""
    hop: Judge | None = None
    method: str = "GET"

    def __repr__(self) -> str:
        return "<HttpRequest>"  # A URL may be signed.

    @property
    def home(self) -> str:
        """Return a URL of the origin that may see the private headers."""
        return self.endpoint or self.url


class Web:
    """An HTTP client shared by sources and threads. `private` headers (tokens) go to a request's `home` only."""

    def __init__(self, connections: int, addresses: Addresses | None = None) -> None:
        self.addresses = addresses or Addresses()
        self.clients = Clients(connections)

    @contextmanager
    def request(self, request: HttpRequest, timeout: float) -> Iterator[httpx2.Response]:
        """Yield the final answer, its body not yet read.

        Raise InvalidRequest if the URL or a redirect leads to an address that may not be contacted.
        """
        # Check the URL that is sent: two parsers may see two hosts in one URL.
        request = replace(request, url=wire_url(request.url))
        with self.clients.of(owner_of(request.private)) as client:
            yield from self._walk(client, request, timeout)

    def _walk(self, client: httpx2.Client, request: HttpRequest, timeout: float) -> Iterator[httpx2.Response]:
        home, target, secrets = origin(request.home), request.url, request.private
        exempt = request.home if request.trusted else ""
        for _ in range(MAX_REDIRECTS):
            checked = not request.trusted or origin(target) != home
            if checked:
                self.addresses.check_url(target, exempt)
            if origin(target) != home:
                secrets = {}  # Permanently: not even a redirect back gets them again.
            response = _send(client, request.method, target, {**request.headers, **secrets}, timeout)
            try:
                if checked and _is_direct(client, target):
                    self.addresses.check(_peer(response), exempt)
                if not response.has_redirect_location:
                    yield response
                    return
                if request.hop:
                    request.hop(response)
                target = next_url(target, response.headers["Location"])
            finally:
                response.close()
        raise SourceUnavailable("A source redirects in a loop; try again later.")

    def json(
        self,
        ref: ModelRef,
        url: str,
        *,
        timeout: float,
        judge: Judge,
        private: Mapping[str, str] | None = None,
    ) -> tuple[Any, httpx2.Response]:
        """Return the decoded answer to a GET and its response, charged to the budget as a page. `judge` raises on
        failures."""
        budget.page()
        timeout = budget.seconds_left(timeout)
        with web_errors(ref), self.request(HttpRequest(url, private=private or {}), timeout) as response:
            raw = _whole(response, ref, time.monotonic() + timeout)
            judge(response)
            try:
                with _large if len(raw) > LARGE_JSON_BYTES else nullcontext():
                    return json.loads(raw, parse_constant=_no_number), response
            except (ValueError, RecursionError):
                raise unavailable(ref, "its answer is not JSON") from None

    def read(
        self,
        ref: ModelRef,
        span: Span,
        request: HttpRequest,
        *,
        timeout: float,
        judge: Judge,
        stored_encoding: bool = False,
    ) -> tuple[bytes, str]:
        """Return the span's bytes and the URL that gave them. `judge` raises unless the answer is of the right version.

        A compressed body is refused unless `stored_encoding` says that the remote stores the file so.
        """
        deadline = time.monotonic() + timeout
        ranged = replace(request, headers={**request.headers, "Range": span.header})
        with web_errors(ref), self.request(ranged, timeout) as response:
            if response.status_code not in (200, 206):
                _whole(response, ref, deadline)  # Judges read the body of a failure.
            judge(response)
            encoding = response.headers.get("Content-Encoding", "identity")
            if encoding != "identity" and not stored_encoding:
                raise SourceUnavailable(
                    f"The source sent {span.name} compressed ({encoding[:20]}), unasked; try again."
                )
            return _part(response, span, deadline), str(response.url)

    def close(self) -> None:
        self.clients.close()


def _no_number(name: str) -> Any:
    """Raise ValueError for `Infinity` and its like, which Python's parser accepts and JSON (RFC 8259) does not."""
    raise ValueError(f"{name} is no JSON")


@contextmanager
def web_errors(ref: ModelRef) -> Iterator[None]:
    """Translate foreign errors to ours. Their texts are not passed on: they may quote a signed URL."""
    try:
        yield
    except httpx2.TimeoutException as error:
        # The client has no bound on connections, so this is not a wait for one of ours.
        raise unavailable(ref, "it did not answer in time", seen=not isinstance(error, httpx2.PoolTimeout)) from None
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
        raise InvalidRequest(f"The URL of {ref} is malformed; check it.") from None
    except (httpx2.HTTPError, OSError) as error:
        raise connection_failed(ref, error) from None


def _whole(response: httpx2.Response, ref: ModelRef, deadline: float) -> bytes:
    """Return the complete body, within a deadline and a bound on memory; also left in `response.content`."""
    chunks: list[bytes] = []
    total = 0
    for chunk in response.iter_bytes():
        chunks.append(chunk)
        total += len(chunk)
        budget.read(len(chunk))
        if total > MAX_JSON_BYTES or time.monotonic() > deadline:
            raise unavailable(ref, "its answer is too long or too slow")
    response._content = b"".join(chunks)  # As `response.read()` does, which has no deadline.
    return response._content


def _part(response: httpx2.Response, span: Span, deadline: float) -> bytes:
    """Return the span's bytes from the body as it was sent, within a deadline."""
    length = response.headers.get("Content-Length", "")
    skip = bytes_to_skip(
        span,
        response.status_code,
        response.headers.get("Content-Range"),
        int(length) if length.isdigit() else None,
    )
    collector = Collector(span, skip, deadline)
    for chunk in response.iter_raw():
        if not collector.take(chunk):
            break
    return collector.bytes()


def next_url(url: str, location: str) -> str:
    """Return a redirect's target. Raise SourceUnavailable if it gives up encryption, InvalidRequest if malformed."""
    try:
        target = wire_url(urljoin(url, location))
    except ValueError:
        raise InvalidRequest("A source leads to a malformed URL; nothing was fetched from there.") from None
    if origin(url)[0] == "https" and origin(target)[0] != "https":
        raise SourceUnavailable(
            "A source redirects from https to an unencrypted address; nothing was fetched from there."
        )
    return target


def _send(client: httpx2.Client, method: str, url: str, headers: Mapping[str, str], timeout: float) -> httpx2.Response:
    limits = httpx2.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT))
    request = client.build_request(method, url, headers=headers, timeout=limits)
    head(method, request.url.raw_path.decode("latin-1"), request.url.netloc.decode("latin-1"), request.headers)
    with head_within(timeout):
        return client.send(request, stream=True)


def _is_direct(client: httpx2.Client, url: str) -> bool:
    """Return True if no proxy is used for the URL; else the peer is that proxy, which the operator has chosen."""
    return client._transport_for_url(httpx2.URL(url)) is client._transport


def _peer(response: httpx2.Response) -> str:
    """Return the address that the connection really reached: a name may resolve differently each time."""
    return str(response.extensions["network_stream"].get_extra_info("server_addr")[0])
