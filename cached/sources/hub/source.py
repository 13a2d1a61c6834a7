"""The Hugging Face Hub, or any server that answers like it. A commit never changes, so it pins every read."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx2
from huggingface_hub import constants, hf_hub_url
from huggingface_hub.hf_api import RepoFile

from cached import budget
from cached.access import Credentials
from cached.config import Config
from cached.model import Checksum, Digest, Entry, Listing
from cached.model_ref import ModelRef
from cached.paths import is_safe
from cached.sources.hub.errors import check
from cached.sources.hub.hf_transfer import HfTransfer
from cached.sources.hub.reader import HubReader, Transport, judge_version
from cached.sources.source import Reader
from cached.sources.transport.client import HttpRequest, Web, origin, web_errors
from cached.sources.transport.pool import Lanes
from cached.sources.transport.ranges import proving, spoken, unavailable

REMEMBERED_TREES = 16  # Listings of commits, which never change; a movable name mostly points where it did.
REMEMBERED_FILES = 10_000  # A longer listing is not worth its memory.
# Files that the Hub may give to everybody, taken generously: in every folder and case.
FREE = ("readme.md", ".gitattributes")

_COMMIT = re.compile(r"[0-9a-f]{40}\Z")


class HubSource:
    def __init__(self, config: Config, web: Web) -> None:
        endpoint = config.hub_endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
        self.endpoint = endpoint.rstrip("/")
        self._web = web
        self._lanes = Lanes()
        self._transport = Transport(web, self._lanes, HfTransfer(config), float(config.read_timeout))
        self._trees: OrderedDict[tuple[str, str, bytes], tuple[Entry, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def resolve(self, ref: ModelRef, credentials: Credentials, timeout: float) -> Listing:
        private = _authorization(credentials)
        revision = ref.revision or constants.DEFAULT_REVISION
        url = f"{self.endpoint}/api/models/{ref.place}/revision/{quote(revision, safe='')}"
        info, _ = self._json(ref, url, private, timeout)
        commit = info.get("sha") if isinstance(info, dict) else None
        if not isinstance(commit, str) or not _COMMIT.match(commit):
            raise unavailable(ref, "it does not answer like a Hub; check the endpoint")
        tree = self._tree(ref, commit, private, timeout)
        entries = tuple(entry for entry in tree if ref.selects(entry.path))
        # A gated repository shows its listing to everybody: only a file proves that this caller may read it.
        open_to_all = info.get("gated") is False and info.get("private") is False
        place = f"hf://{self.endpoint.partition('://')[2]}/{ref.place}"
        return Listing(ref, place, commit, entries, open_to_all, _probe(tree, entries))

    def prove(self, listing: Listing, entry: Entry, credentials: Credentials, timeout: float) -> None:
        ref, url = listing.ref, file_url(self.endpoint, listing, entry)

        def judge(response: httpx2.Response) -> None:
            check(ref, response)
            judge_version(f"{entry.path} of {spoken(ref)}", entry, response.headers)

        def hop(response: httpx2.Response) -> None:
            judge(response)
            if origin(str(response.url.join(response.headers["Location"]))) != origin(url):
                raise _LeavesHub

        request = HttpRequest(url, private=_authorization(credentials), hop=hop, method="HEAD")
        try:
            with proving(ref), web_errors(ref), self._web.request(request, timeout) as answer:
                judge(answer)
        except _LeavesHub:
            pass  # The redirect to the content network proves access.

    def principal(self, credentials: Credentials, timeout: float) -> str | None:
        return None

    def open(self, listing: Listing, entry: Entry, credentials: Credentials) -> Reader:
        url, private = file_url(self.endpoint, listing, entry), _authorization(credentials)
        return HubReader(self._transport, url, listing, entry, private)

    def close(self) -> None:
        self._trees.clear()
        self._lanes.close()

    def _json(self, ref: ModelRef, url: str, private: Mapping[str, str], timeout: float) -> tuple[Any, httpx2.Response]:
        return self._web.json(ref, url, timeout=timeout, judge=lambda answer: check(ref, answer), private=private)

    def _tree(self, ref: ModelRef, commit: str, private: Mapping[str, str], timeout: float) -> tuple[Entry, ...]:
        """Return every file of a commit, in one (paged) call; later calls with the same token are answered from memory.
        With another token that would reveal that someone on this node has requested it."""
        token = hashlib.sha256(private.get("Authorization", "").encode()).digest()
        with self._lock:
            known = self._trees.get((ref.place, commit, token))
        if known is not None:
            return known
        url: str | None = f"{self.endpoint}/api/models/{ref.place}/tree/{commit}?recursive=true&expand=false"
        entries: list[Entry] = []
        while url:
            page, response = self._json(ref, url, private, timeout)
            if not isinstance(page, list):
                raise unavailable(ref, "it does not answer like a Hub; check the endpoint")
            try:
                budget.listed(len(entries) + len(page))
                entries += [_entry(item, commit) for item in page if item["type"] == "file"]
            except (KeyError, TypeError, ValueError, OverflowError):
                raise unavailable(ref, "its listing is not understood") from None
            url = response.links.get("next", {}).get("url")
            if url and origin(url) != origin(self.endpoint):
                raise unavailable(ref, "its listing goes on at another host")
        found = tuple(entries)
        if len(found) <= REMEMBERED_FILES:
            with self._lock:
                self._trees[ref.place, commit, token] = found
                while len(self._trees) > REMEMBERED_TREES:
                    self._trees.popitem(last=False)
        return found


def _probe(tree: Sequence[Entry], selected: Sequence[Entry]) -> Entry | None:
    """Return the file that proves the right to the repository: its largest LFS file, else its largest that is not free.

    The Hub lets everybody read the README of a gated repository ("all files except README.md are protected",
    https://github.com/huggingface/transformers/pull/26257). A caller that selected such a file, and no other, proves no
    more than that; of several the largest might be free, and the others not.
    """
    if len(selected) == 1 and _free(selected[0]):
        return selected[0]
    guarded = [entry for entry in tree if not _free(entry) and is_safe(entry.path)]
    large = [entry for entry in guarded if entry.digest is not None]
    # If the repository has no other files: the one that is the least likely to be free.
    return max(large or guarded or selected, key=lambda e: (_name(e) != FREE[0], e.size, e.path), default=None)


def _free(entry: Entry) -> bool:
    return _name(entry) in FREE


def _name(entry: Entry) -> str:
    return entry.path.rpartition("/")[2].lower()


class _LeavesHub(Exception):
    pass


def file_url(endpoint: str, listing: Listing, entry: Entry) -> str:
    return hf_hub_url(listing.ref.place, entry.path, revision=listing.revision, endpoint=endpoint)


def _entry(item: Mapping[str, object], commit: str) -> Entry:
    file = RepoFile(**item)  # type: ignore[no-untyped-call]
    if file.lfs is not None:
        return Entry(file.path, int(file.lfs.size), commit, Digest.parse(file.lfs.sha256))
    return Entry(file.path, int(file.size), commit, None, (Checksum("git-sha1", file.blob_id),))


def _authorization(credentials: Credentials) -> Mapping[str, str]:
    """Return the header with the caller's token, else the daemon's own; never one that a login left in a home."""
    own = os.environ.get("HF_TOKEN") if credentials.lend else None
    token = credentials.get("HF_TOKEN") or credentials.get("HUGGING_FACE_HUB_TOKEN") or own
    return {"Authorization": f"Bearer {token}"} if token else {}
