"""One file at an http(s) URL. Pinned by its ETag, else by its date and size."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

import httpx2

from cached.access import Credentials
from cached.config import Config
from cached.errors import CachedError, InvalidRequest, ModelNotFound, SourceUnavailable
from cached.model import Entry, Listing, listing_revision
from cached.model_ref import ModelRef
from cached.sources.source import Reader
from cached.sources.transport.client import HttpRequest, Web, web_errors, wire_url
from cached.sources.transport.pool import Answer, Lanes, Request, Sink, lane_errors
from cached.sources.transport.ranges import Span, changed, from_status, proving, spoken, unavailable

_STRONG = re.compile(r'"[!#-~]*"\Z')  # RFC 9110, section 8.8.3, restricted to ASCII.

TRIES = 2  # Answers in a row that the fast path did not accept, after which the file is left to `read`.

_ADVICE = "the server wants a login, which http(s) models cannot have; use another source"


class HttpSource:
    def __init__(self, config: Config, web: Web) -> None:
        self._web = web
        self._lanes = Lanes()
        self._read_timeout = float(config.read_timeout)

    def resolve(self, ref: ModelRef, credentials: Credentials, timeout: float) -> Listing:
        name = unquote(urlsplit(wire_url(ref.url)).path.rpartition("/")[2])
        if not name:
            raise InvalidRequest(f"{spoken(ref)} names no file; give the URL of one model file.")
        size, version = probe(self._web, ref, timeout)
        entries = tuple(entry for entry in (Entry(name, size, version),) if ref.selects(entry.path))
        return Listing(ref, ref.uri, listing_revision(entries), entries, open=True)

    def prove(self, listing: Listing, entry: Entry, credentials: Credentials, timeout: float) -> None:
        """Check only that the file is as it was listed: no credentials are used here."""
        with proving(listing.ref):
            found = probe(self._web, listing.ref, timeout)
        if found != (entry.size, entry.version):
            raise changed(spoken(listing.ref), "its ETag, date or size is another one")

    def principal(self, credentials: Credentials, timeout: float) -> str | None:
        return None

    def open(self, listing: Listing, entry: Entry, credentials: Credentials) -> Reader:
        return HttpReader(self._web, self._lanes, listing.ref, entry, self._read_timeout)

    def close(self) -> None:
        self._lanes.close()


class HttpReader:
    """A reader whose ranges carry `If-Match` if the ETag is a strong one; each answer's ETag or date is compared."""

    def __init__(self, web: Web, lanes: Lanes, ref: ModelRef, entry: Entry, timeout: float) -> None:
        self._web, self._lanes, self._ref, self._entry, self._timeout = web, lanes, ref, entry, timeout
        self._link: str | None = wire_url(ref.url)  # For the fast path: the target of the last redirect.
        self._tries = TRIES

    def read(self, offset: int, length: int) -> bytes:
        if not length:
            return b""
        span = Span(spoken(self._ref), offset, length, self._entry.size)
        request = HttpRequest(self._ref.url, self._pin(), trusted=False)
        data, link = self._web.read(self._ref, span, request, timeout=self._timeout, judge=self._judge)
        if self._link is None and self._tries:
            self._link = link
        return data

    def stream(self, offset: int, length: int, sink: Sink) -> bool:
        """Read through the fast path. A redirect is followed by `read`, which checks every hop; then its target is used
        directly until it expires."""
        link = self._link
        if not length or link is None:
            return False
        addresses = self._web.addresses
        addresses.check_url(link)
        span = Span(spoken(self._ref), offset, length, self._entry.size)
        with lane_errors(self._ref):
            request = Request.of(link, self._pin(), None, addresses.check)
            done = self._lanes.stream(request, span, self._timeout, self._judge_lane, sink)
        if done:
            self._tries = TRIES
        elif self._link == link:
            self._link = None
            self._tries -= 1
        return done

    def _pin(self) -> dict[str, str]:
        """Return the `If-Match` header, if the ETag is a strong one. Weak ETags never match, by the standard, and some
        fit in no header; both are still compared with the answer's."""
        return {"If-Match": self._entry.version} if _STRONG.match(self._entry.version) else {}

    def _judge_lane(self, answer: Answer) -> bool:
        said = answer.headers.get("etag") or answer.headers.get("last-modified") or "unversioned"
        return said == self._entry.version

    def recheck(self, resumed: bool = False) -> None:
        if not _STRONG.match(self._entry.version) and probe(self._web, self._ref, self._timeout) != (
            self._entry.size,
            self._entry.version,
        ):
            raise changed(spoken(self._ref), "its date or size is another one")

    def close(self) -> None: ...

    def _judge(self, response: httpx2.Response) -> None:
        if response.status_code in (404, 410, 412, 416):
            raise changed(spoken(self._ref), "it is gone, or another version")
        if response.status_code >= 300:
            raise _translated(self._ref, response)
        if _version(response) != self._entry.version:
            raise changed(spoken(self._ref), "its ETag or date is another one")


def probe(web: Web, ref: ModelRef, timeout: float) -> tuple[int, str]:
    """Return size and version, from a GET of one byte: not every server answers HEAD, and this shows if ranges work."""
    first = HttpRequest(ref.url, {"Range": "bytes=0-0"}, trusted=False)
    with web_errors(ref), web.request(first, timeout) as response:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        if response.status_code == 200 and not total:
            total = response.headers.get("Content-Length", "")
        elif response.status_code not in (200, 206) and not (response.status_code == 416 and total == "0"):
            raise _translated(ref, response)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise SourceUnavailable(f"The server sends {spoken(ref)} compressed, unasked; use another source.")
        if not total.isdigit():
            raise unavailable(ref, "the server does not say how long the file is")
        return int(total), _version(response)


def _version(response: httpx2.Response) -> str:
    return str(response.headers.get("ETag") or response.headers.get("Last-Modified") or "unversioned")


def _translated(ref: ModelRef, response: httpx2.Response) -> CachedError:
    if response.status_code in (404, 410):
        return ModelNotFound(f"There are no model files at {spoken(ref)}: the server has no such file; check the URL.")
    return from_status(ref, response.status_code, _ADVICE, response.headers.get("Retry-After"))
