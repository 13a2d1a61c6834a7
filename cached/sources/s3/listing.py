"""List the objects below a prefix. Pages are fetched through the fast path; where that does not serve, through s3fs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from xml.etree import ElementTree

from cached import budget
from cached.model import Entry
from cached.model_ref import ModelRef
from cached.sources.s3.reader import object_entry
from cached.sources.s3.signer import S3Signer
from cached.sources.transport.pool import Lanes, lane_errors
from cached.sources.transport.ranges import unavailable
from cached.sources.transport.waiting import run_on

TRIES = 3

_LATE = 0.05  # Seconds by which a file system's clock may be behind the server's.
_SPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"

Item = Mapping[str, Any]
Page = Mapping[str, Any]  # As botocore gives them, with the answer's Date.


class S3Pages:
    """Query `list_objects_v2` (https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html), page by page.

    Answers to reads date their bytes to the second. So no listing is returned while objects without an ETag may yet be
    overwritten in the second that it names for them: a listed version can then be told from all later writes.

    Raises the errors of s3fs, and SourceUnavailable.
    """

    def __init__(self, ref: ModelRef, client: Any, signer: S3Signer, lanes: Lanes, timeout: float) -> None:
        self._ref, self._client, self._signer, self._lanes, self._timeout = ref, client, signer, lanes, timeout

    def entries(self, bucket: str, prefix: str) -> list[Entry]:
        """Return every object below `prefix/`; the markers that consoles leave for folders are not files."""
        below = f"{prefix}/" if prefix else ""

        def path_of(item: Item) -> str:
            return "" if item["Size"] == 0 and item["Key"].endswith("/") else item["Key"][len(below) :]

        return self._settled(lambda: self._pages(bucket, below), path_of)

    def entry(self, bucket: str, key: str, path: str) -> Entry | None:
        """Return the object with this key, as `path`; None if there is none."""

        def ask() -> Iterator[tuple[float, Page]]:
            yield time.monotonic(), self._slow(bucket, key, None)

        found = self._settled(ask, lambda item: path if item["Key"] == key else "")
        return found[0] if found else None

    def _settled(self, ask: Callable[[], Iterator[tuple[float, Page]]], path_of: Callable[[Item], str]) -> list[Entry]:
        """Return the listed objects that have a path, once the second in which the last of them was written is over.
        Raise SourceUnavailable if they keep being written."""
        clock = _ServersClock()
        for left in reversed(range(TRIES)):
            found: list[Entry] = []
            wait = 0.0
            for asked, page in ask():
                date = clock.hear(page["Date"])
                named = [(path, item) for item in page.get("Contents", ()) if (path := path_of(item))]
                budget.listed(len(found) + len(named))
                found += [object_entry(path, item["Size"], item) for path, item in named]
                dated = [item for path, item in named if not _tagged(item) and self._ref.selects(path)]
                wait = max(wait, _newest(dated, date) + 1 + _LATE - clock.at(asked))
            if wait <= 0:
                return found
            if left:
                time.sleep(wait)
        raise unavailable(self._ref, "it is being written to, and names no ETags to tell old from new")

    def _pages(self, bucket: str, below: str) -> Iterator[tuple[float, Page]]:
        """Yield each page with the moment of its request."""
        token: str | None = None
        while True:
            asked = time.monotonic()
            page = self._fast(bucket, below, token) or self._slow(bucket, below, token)
            yield asked, page
            if not page.get("IsTruncated"):
                return
            token = page["NextContinuationToken"]

    def _slow(self, bucket: str, below: str, token: str | None) -> Page:
        more = {"ContinuationToken": token} if token else {}
        budget.page()
        asked = self._client._call_s3("list_objects_v2", Bucket=bucket, Prefix=below, **more)
        page: Page = run_on(self._client.loop, asked, budget.seconds_left(self._timeout))
        return {"Date": page["ResponseMetadata"]["HTTPHeaders"].get("date", ""), **page}

    def _fast(self, bucket: str, below: str, token: str | None) -> Page | None:
        """Return a page through the fast path; None if that is not possible. botocore takes a tenth of a second to
        parse a page, the XML parser three milliseconds."""
        query = {"list-type": "2", "prefix": below} | ({"continuation-token": token} if token else {})
        try:
            request = self._signer.request(bucket, "", query, {})
            with lane_errors(self._ref):
                said = self._lanes.text(request, self._timeout)
            page = _parsed(said[1]) if said else None
        except (ElementTree.ParseError, KeyError, ValueError):
            return None
        return {"Date": said[0].headers.get("date", ""), **page} if said and page else None


class _ServersClock:
    """The clock that dates objects, by the Date of answers: cut to seconds and a while old, it is never ahead."""

    def __init__(self) -> None:
        self._ahead = -math.inf  # Seconds ahead of our own clock.

    def hear(self, date: str) -> float:
        """Record the Date of an answer received just now, and return it in seconds since 1970; the time of this machine
        if it is missing."""
        try:
            told = parsedate_to_datetime(date).timestamp()
        except (ValueError, TypeError):
            told = time.time()
        self._ahead = max(self._ahead, told - time.monotonic())
        return told

    def at(self, moment: float) -> float:
        """Return the least time that the clock showed at that moment of time.monotonic()."""
        return moment + self._ahead


def _tagged(item: Item) -> bool:
    return bool(item.get("ETag", "").strip('"'))


def _newest(items: Iterable[Item], date: float) -> float:
    """Return the second in which the last of the objects was written. An object dated after the answer has its date
    from its writer, and does not count."""
    seconds = (int(item["LastModified"].timestamp()) for item in items)
    return max((second for second in seconds if second <= date + 1), default=-math.inf)


def _parsed(body: bytes) -> Page | None:
    root = ElementTree.fromstring(body)
    if root.tag.removeprefix(_SPACE) != "ListBucketResult":
        return None
    found = []
    for item in root:
        name = item.tag.removeprefix(_SPACE)
        if name == "Contents":
            fields = {part.tag.removeprefix(_SPACE): part.text or "" for part in item}
            found.append(
                {
                    "Key": fields["Key"],
                    "Size": int(fields["Size"]),
                    "ETag": fields.get("ETag", ""),
                    "LastModified": datetime.fromisoformat(fields["LastModified"]),
                }
            )
    page: dict[str, Any] = {"Contents": found}
    for name in ("IsTruncated", "NextContinuationToken"):
        text = root.findtext(f"{_SPACE}{name}") or root.findtext(name)
        if text:
            page[name] = text == "true" if name == "IsTruncated" else text
    return page if not page.get("IsTruncated") or "NextContinuationToken" in page else None
