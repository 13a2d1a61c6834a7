"""The Hugging Face Hub, or anything that answers like it. A commit never changes, so it pins every read."""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

import httpx2
from huggingface_hub import constants, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._http import hf_raise_for_status

from cached.config import Config
from cached.errors import CachedError, ModelNotFound, RevisionNotFound, SourceError
from cached.model import Checksum, Credentials, Digest, Entry, Listing, ModelRef
from cached.sources.base import Reader
from cached.sources.transfer import Span, changed, denied, from_status, spoken, unavailable
from cached.sources.web import Judge, Web, origin, web_errors

REMEMBERED_TREES = 16  # Listings of commits, which never change; a moving name mostly points where it did.
REMEMBERED_FILES = 10_000  # A longer listing is not worth its memory.

_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_EXPIRED = (400, 401, 403, 404, 410)  # How content networks refuse a signed link that has run out.


class HubSource:
    def __init__(self, config: Config, web: Web) -> None:
        endpoint = config.hub_endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
        self.endpoint = endpoint.rstrip("/")
        self._read_timeout = float(config.read_timeout)
        self._web = web
        self._trees: OrderedDict[tuple[str, str], tuple[Entry, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def resolve(self, ref: ModelRef, credentials: Credentials, timeout: float) -> Listing:
        private = _authorization(credentials)
        revision = ref.revision or constants.DEFAULT_REVISION
        url = f"{self.endpoint}/api/models/{ref.place}/revision/{quote(revision, safe='')}"
        info, _ = self._json(ref, url, private, timeout)
        commit = info.get("sha") if isinstance(info, dict) else None
        if not isinstance(commit, str) or not _COMMIT.match(commit):
            raise unavailable(ref, "it does not answer like a Hub; check the endpoint")
        entries = tuple(entry for entry in self._tree(ref, commit, private, timeout) if ref.selects(entry.path))
        listing = Listing(ref, f"hf://{self.endpoint.partition('://')[2]}/{ref.place}", commit, entries)
        # A gated repository shows its listing to everybody: only a file proves that this caller may read it.
        if info.get("gated") is not False:
            self._prove_access(listing, private, timeout)
        return listing

    def open(self, listing: Listing, entry: Entry, credentials: Credentials) -> Reader:
        return HubReader(self._web, self.endpoint, listing, entry, _authorization(credentials), self._read_timeout)

    def close(self) -> None:
        self._trees.clear()

    def _json(self, ref: ModelRef, url: str, private: Mapping[str, str], timeout: float) -> tuple[Any, httpx2.Response]:
        return self._web.json(ref, url, timeout=timeout, judge=lambda answer: _check(ref, answer), private=private)

    def _tree(self, ref: ModelRef, commit: str, private: Mapping[str, str], timeout: float) -> tuple[Entry, ...]:
        """Every file of a commit, in one (paged) call; later calls answer from memory."""
        with self._lock:
            known = self._trees.get((ref.place, commit))
        if known is not None:
            return known
        url: str | None = f"{self.endpoint}/api/models/{ref.place}/tree/{commit}?recursive=true&expand=false"
        entries: list[Entry] = []
        while url:
            page, response = self._json(ref, url, private, timeout)
            if not isinstance(page, list):
                raise unavailable(ref, "it does not answer like a Hub; check the endpoint")
            try:
                entries += [_entry(item, commit) for item in page if item["type"] == "file"]
            except (KeyError, TypeError, ValueError):
                raise unavailable(ref, "its listing is not understood") from None
            url = response.links.get("next", {}).get("url")
            if url and origin(url) != origin(self.endpoint):
                raise unavailable(ref, "its listing goes on at another host")
        found = tuple(entries)
        if len(found) <= REMEMBERED_FILES:
            with self._lock:
                self._trees[ref.place, commit] = found
                while len(self._trees) > REMEMBERED_TREES:
                    self._trees.popitem(last=False)
        return found

    def _prove_access(self, listing: Listing, private: Mapping[str, str], timeout: float) -> None:
        """SourceDenied unless this caller may read the files."""
        ref, url = listing.ref, file_url(self.endpoint, listing, listing.entries[0])
        try:
            with (
                web_errors(ref),
                self._web.request("HEAD", url, timeout=timeout, private=private, hop=_stay) as answer,
            ):
                _check(ref, answer)
        except _LeavesHub:
            pass  # The way to the content network is the grant.


class _LeavesHub(Exception):
    pass


def _stay(response: httpx2.Response) -> None:
    """Ends a walk through redirects where it leaves the Hub."""
    if origin(str(response.url.join(response.headers["Location"]))) != origin(str(response.url)):
        raise _LeavesHub


class HubReader:
    """Reads `/resolve/<commit>/<path>` and keeps the signed link that it leads to until that runs out."""

    def __init__(
        self, web: Web, endpoint: str, listing: Listing, entry: Entry, private: Mapping[str, str], timeout: float
    ) -> None:
        self._web, self._ref, self._entry, self._timeout = web, listing.ref, entry, timeout
        self._url = file_url(endpoint, listing, entry)
        self._private = private
        self._link: str | None = None
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
                # One caller finds the link; the others wait for it rather than ask the Hub once each.
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

    def recheck(self) -> None:
        """Nothing to do: the commit pins the file."""

    def close(self) -> None: ...

    def _get(self, span: Span, url: str, judge: Judge) -> bytes:
        home = url == self._url
        private = self._private if home else None
        data, _ = self._web.read(
            self._ref, span, url, timeout=self._timeout, judge=judge, private=private, trusted=home, hop=self._judge
        )
        return data

    def _found(self, turn: ExitStack) -> Judge:
        """Judges the answer to a request to the Hub, keeps the link that it led to, and lets the others go on."""

        def judge(response: httpx2.Response) -> None:
            self._judge(response)
            if origin(str(response.url)) != origin(self._url):
                self._link = str(response.url)
            turn.close()

        return judge

    def _judge_link(self, response: httpx2.Response) -> None:
        if response.status_code in _EXPIRED:
            raise _LinkExpired
        self._judge(response)

    def _judge(self, response: httpx2.Response) -> None:
        """Raise on failures and on the Hub's own word that this is another version."""
        if response.status_code == 416:
            raise changed(self._name, "it is shorter now")
        if origin(str(response.url)) != origin(self._url):
            if response.status_code >= 400:
                # The Hub granted it, and a fresh link was refused: the storage behind the Hub, not the caller.
                raise unavailable(self._ref, f"its content network answered HTTP {response.status_code}")
            return
        _check(self._ref, response, self._name)
        self._judge_version(response.headers)

    def _judge_version(self, headers: httpx2.Headers) -> None:
        entry = self._entry
        commit = headers.get("X-Repo-Commit", entry.version)
        size = headers.get("X-Linked-Size", str(entry.size))
        tag = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").removeprefix("W/").strip('"')
        expected = entry.digest.hex if entry.digest else next((c.value for c in entry.checksums), tag)
        if commit != entry.version or size != str(entry.size):
            raise changed(self._name, "the Hub serves another commit or size")
        if len(tag) == len(expected) and tag != expected:
            raise changed(self._name, "the Hub serves other content")


class _LinkExpired(Exception):
    pass


def file_url(endpoint: str, listing: Listing, entry: Entry) -> str:
    return hf_hub_url(listing.ref.place, entry.path, revision=listing.revision, endpoint=endpoint)


def _entry(item: Mapping[str, object], commit: str) -> Entry:
    file = RepoFile(**item)  # type: ignore[no-untyped-call]
    if file.lfs is not None:
        return Entry(file.path, int(file.lfs.size), commit, Digest.parse(file.lfs.sha256))
    return Entry(file.path, int(file.size), commit, None, (Checksum("git-sha1", file.blob_id),))


def _authorization(credentials: Credentials) -> Mapping[str, str]:
    """The caller's token, else the daemon's own; never one that a login left in somebody's home."""
    token = credentials.get("HF_TOKEN") or credentials.get("HUGGING_FACE_HUB_TOKEN") or os.environ.get("HF_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _check(ref: ModelRef, response: httpx2.Response, file: str = "") -> None:
    """Raise the Hub's errors as ours. With `file`, a missing file means that it went away."""
    try:
        hf_raise_for_status(response)
    except HfHubHTTPError as error:
        raise _translated(ref, file, error) from None


def _translated(ref: ModelRef, file: str, error: HfHubHTTPError) -> CachedError:
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return denied(ref, "it is gated; ask for access on its page, then set HF_TOKEN to a token that has it")
    if isinstance(error, DisabledRepoError):
        return denied(ref, "it has been disabled by the Hub; use another repository")
    if isinstance(error, RevisionNotFoundError):
        revision = ref.revision or constants.DEFAULT_REVISION
        return RevisionNotFound(f"{ref.uri} has no revision {revision!r}; give a branch, tag or commit that it has.")
    said_missing = error.response.headers.get("X-Error-Code") == "RepoNotFound"
    if isinstance(error, RepositoryNotFoundError) and (said_missing or status == 404):
        # The Hub says the same of a private repository, and so do we.
        return ModelNotFound(
            f"The Hub has no repository {ref.place}, or it is private; check the name, "
            "or set HF_TOKEN to a token that may read it."
        )
    if status == 404:
        return changed(file, "it is gone") if file else ModelNotFound(f"The Hub has nothing at {ref}; check the name.")
    if status in (400, 416):
        return SourceError(f"The Hub does not understand the request for {ref} (HTTP {status}); check the name.")
    advice = "check the name, and set HF_TOKEN to a token that may read it"
    return from_status(ref, status, advice, error.response.headers.get("Retry-After"))
