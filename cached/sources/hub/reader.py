"""Ranged reads of one file of the Hub, at a commit."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx2

from cached.model import Entry, Listing
from cached.sources.hub.errors import check
from cached.sources.hub.hf_transfer import HfTransfer
from cached.sources.transport.client import HttpRequest, Judge, Web, next_url, origin, owner_of, web_errors
from cached.sources.transport.pool import Answer, Lanes, Request, Sink, lane_errors
from cached.sources.transport.ranges import Span, changed, spoken, unavailable

_EXPIRED = (400, 401, 403, 404, 410)  # How content networks refuse an expired signed link.


@dataclass
class Transport:
    """The state that all readers of one Hub share."""

    web: Web
    lanes: Lanes
    engine: HfTransfer
    timeout: float
    detours: bool = False  # This Hub redirects small files too, so they cannot use the fast path.


class HubReader:
    """Read `/resolve/<commit>/<path>`, and keep the signed link that it leads to until that expires."""

    def __init__(
        self, transport: Transport, url: str, listing: Listing, entry: Entry, private: Mapping[str, str]
    ) -> None:
        self._transport, self._timeout = transport, transport.timeout
        self._ref, self._entry = listing.ref, entry
        self._url = url
        self._private = private
        self._link: str | None = None  # The URL of the bytes; on the Hub itself if it does not redirect.
        self._finding = threading.Lock()
        self._name = f"{entry.path} of {spoken(listing.ref)}"

    def __repr__(self) -> str:
        return f"HubReader({self._name})"

    def read(self, offset: int, length: int) -> bytes:
        if not length:
            return b""
        span = Span(self._name, offset, length, self._entry.size)
        with ExitStack() as turn:
            if self._link is None:
                # One reader finds the link; the others wait for it rather than query the Hub once each.
                if not self._finding.acquire(timeout=self._timeout):
                    raise unavailable(self._ref, "it did not answer in time")
                turn.callback(self._finding.release)
            link = self._link
            if link is not None:
                turn.close()
                try:
                    return self._get(span, link, self._judge_link)
                except _LinkExpired:
                    if self._link == link:
                        self._link = None
                return self.read(offset, length)
            return self._get(span, self._url, self._found(turn))

    def stream(self, offset: int, length: int, sink: Sink) -> bool:
        """Read small files from the Hub itself, large ones by a link that is found first and kept.

        An expired link is detected by `read`, which gets a fresh one for both.
        """
        large = self._entry.digest is not None
        if not length or (self._transport.detours and not large):
            return False
        span = Span(self._name, offset, length, self._entry.size)
        link = self._link or (self._find_link() if large else self._url)
        home = self._is_home(link)
        if home:
            request = Request.of(link, self._private, owner_of(self._private))
        else:
            request = Request.of(link, {}, owner_of(self._private), self._check_away(link))
        with lane_errors(self._ref):
            judge = self._judge_lane if home else _accept
            return self._transport.lanes.stream(request, span, self._timeout, judge, sink)

    @property
    def whole(self) -> bool:
        return self._transport.engine.wanted and self._entry.digest is not None

    def download(self, path: Path, progress: Callable[[int], None]) -> bool:
        """Fetch the file by a link that needs no token, else return False: the engine would send the token wherever it
        is redirected."""
        link = self._link or self._find_link()
        if self._is_home(link):
            if self._private:
                return False
        else:
            self._check_away(link)
        self._link = None  # If it expires during the download, the next try finds another.
        self._transport.engine.fetch(self._ref, link, path, progress)
        return True

    def recheck(self, resumed: bool = False) -> None:
        """Do nothing: the commit pins the file."""

    def close(self) -> None: ...

    def _is_home(self, url: str) -> bool:
        return origin(url) == origin(self._url)

    def _check_away(self, link: str) -> Callable[[str], None]:
        """Raise InvalidRequest if a link that leaves the Hub leads to a forbidden address; return the check of the
        address that is reached."""
        addresses = self._transport.web.addresses
        addresses.check_url(link, self._url)
        return functools.partial(addresses.check, endpoint=self._url)

    def _find_link(self) -> str:
        """Return the URL that the Hub redirects permitted callers to; one on the Hub if it does not redirect.

        The request is a GET, as the reads are: some links are signed for the method with which they were requested.
        """
        if not self._finding.acquire(timeout=self._timeout):
            raise unavailable(self._ref, "it did not answer in time")
        try:
            if self._link is None:
                first = HttpRequest(self._url, {"Range": "bytes=0-0"}, self._private, hop=self._leave)
                with web_errors(self._ref), self._transport.web.request(first, self._timeout) as answer:
                    self._judge(answer)
                    self._link = str(answer.url)
            return self._link
        except _LinkFound as found:
            self._link = found.url
            return found.url
        finally:
            self._finding.release()

    def _leave(self, response: httpx2.Response) -> None:
        """Judge a redirect, and end the walk where it leaves the Hub."""
        self._judge(response)
        target = next_url(str(response.url), response.headers["Location"])
        if not self._is_home(target):
            raise _LinkFound(target)

    def _get(self, span: Span, url: str, judge: Judge) -> bytes:
        request = HttpRequest(url, private=self._private, endpoint=self._url, hop=self._judge_hop)
        data, _ = self._transport.web.read(self._ref, span, request, timeout=self._timeout, judge=judge)
        return data

    def _found(self, turn: ExitStack) -> Judge:
        """Return a judge of the Hub's answer that keeps the link it led to and lets the waiting readers go on."""

        def judge(response: httpx2.Response) -> None:
            self._judge(response)
            self._keep(response)
            turn.close()

        return judge

    def _judge_link(self, response: httpx2.Response) -> None:
        if response.status_code in _EXPIRED:
            raise _LinkExpired
        self._judge(response)
        self._keep(response)  # It may have redirected, and the fast path follows no redirect.

    def _keep(self, response: httpx2.Response) -> None:
        """Keep the answer's URL, unless it is on the Hub: the way may have led away and back, and then the token must
        not be sent again."""
        if not self._is_home(str(response.url)):
            self._link = str(response.url)

    def _judge_hop(self, response: httpx2.Response) -> None:
        self._judge(response)
        if self._entry.digest is None:
            self._transport.detours = True

    def _judge_lane(self, answer: Answer) -> bool:
        judge_version(self._name, self._entry, httpx2.Headers(dict(answer.headers)))
        return True

    def _judge(self, response: httpx2.Response) -> None:
        """Raise on failures and on the Hub's own statement that this is another version."""
        if response.status_code == 416:
            raise changed(self._name, "it is shorter now")
        if not self._is_home(str(response.url)):
            if response.status_code >= 400:
                # The Hub granted access, and a fresh link was refused: a fault of the storage, not the caller.
                raise unavailable(
                    self._ref,
                    f"its content network answered HTTP {response.status_code}",
                    seen=response.status_code >= 500,
                )
            return
        check(self._ref, response, self._name)
        judge_version(self._name, self._entry, response.headers)


def judge_version(name: str, entry: Entry, headers: httpx2.Headers) -> None:
    """Raise SourceChanged if the Hub's headers state another version; behind some mirrors they state none."""
    commit = headers.get("X-Repo-Commit", entry.version)
    size = headers.get("X-Linked-Size", str(entry.size))
    tag = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").removeprefix("W/").strip('"')
    expected = entry.digest.hex if entry.digest else next((c.value for c in entry.checksums), tag)
    if commit != entry.version or size != str(entry.size):
        raise changed(name, "the Hub serves another commit or size")
    if len(tag) == len(expected) and tag != expected:
        raise changed(name, "the Hub serves other content")


def _accept(answer: Answer) -> bool:
    """Accept every answer, because the signed link names the content."""
    return True


class _LinkExpired(Exception):
    pass


class _LinkFound(Exception):
    def __init__(self, url: str) -> None:
        super().__init__()  # The URL is signed: no message may contain it.
        self.url = url
