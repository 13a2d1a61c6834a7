"""The objects below a prefix. Pages come through the fast lane; where that does not serve, through s3fs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from xml.etree import ElementTree

from cached.model import Entry, ModelRef
from cached.sources.lane import Lanes, lane_errors
from cached.sources.s3_reader import object_entry
from cached.sources.s3_signer import S3Signer

LATE = 0.05  # Seconds by which a file system's clock may be behind the server's.

_SPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"

Item = Mapping[str, Any]


class S3Pages:
    """`list_objects_v2` (https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html), page by page.

    Raises what s3fs raises, and SourceUnavailable.
    """

    def __init__(self, ref: ModelRef, client: Any, signer: S3Signer, lanes: Lanes, timeout: float) -> None:
        self._ref, self._client, self._signer, self._lanes, self._timeout = ref, client, signer, lanes, timeout

    def entries(self, bucket: str, prefix: str) -> list[Entry]:
        """Every object below `prefix/`; the markers that consoles leave for folders are not files."""
        below = f"{prefix}/" if prefix else ""
        return [
            object_entry(item["Key"][len(below) :], item["Size"], item)
            for item in _settled(lambda: self._pages(bucket, below))
            if not (item["Size"] == 0 and item["Key"].endswith("/"))
        ]

    def entry(self, bucket: str, key: str, path: str) -> Entry | None:
        """The one object of that key, as `path`."""
        items = _settled(lambda: iter((self._slow(bucket, key, None),)))
        return next((object_entry(path, item["Size"], item) for item in items if item["Key"] == key), None)

    def _pages(self, bucket: str, below: str) -> Iterator[Mapping[str, Any]]:
        token: str | None = None
        while True:
            page = self._fast(bucket, below, token) or self._slow(bucket, below, token)
            yield page
            if not page.get("IsTruncated"):
                return
            token = page["NextContinuationToken"]

    def _slow(self, bucket: str, below: str, token: str | None) -> Mapping[str, Any]:
        more = {"ContinuationToken": token} if token else {}
        page: Mapping[str, Any] = self._client.call_s3(
            "list_objects_v2", timeout=self._timeout, Bucket=bucket, Prefix=below, **more
        )
        return {"Date": page["ResponseMetadata"]["HTTPHeaders"].get("date", ""), **page}

    def _fast(self, bucket: str, below: str, token: str | None) -> Mapping[str, Any] | None:
        """botocore takes a tenth of a second for what the XML parser does in three milliseconds."""
        query = {"list-type": "2", "prefix": below} | ({"continuation-token": token} if token else {})
        try:
            request = self._signer.request(bucket, "", query, {})
            with lane_errors(self._ref):
                said = self._lanes.text(request, self._timeout)
            page = _parsed(said[1]) if said else None
        except (ElementTree.ParseError, KeyError, ValueError):
            return None
        return {"Date": said[0].headers.get("date", ""), **page} if said and page else None


def _settled(ask: Callable[[], Iterator[Mapping[str, Any]]]) -> list[Item]:
    """What the pages list; asked for again once the second is over in which an object without ETag was written.

    Answers date their bytes to the second, and that must not be one in which others may still be written.
    """
    found, wait = _listed(ask())
    if wait > 0:
        time.sleep(wait)
        found, _ = _listed(ask())
    return found


def _listed(pages: Iterator[Mapping[str, Any]]) -> tuple[list[Item], float]:
    """All items, and for how many seconds the last of them that has no ETag may yet be written to unseen.

    By the clock of the server that dates both. What it dates in the future was dated by whoever wrote it, and is not
    waited for.
    """
    first = next(pages)
    items: list[Item] = [*first.get("Contents", ()), *(item for page in pages for item in page.get("Contents", ()))]
    try:
        answered = parsedate_to_datetime(first["Date"]).timestamp()
    except (ValueError, TypeError):
        return items, 0
    dated = (int(item["LastModified"].timestamp()) for item in items if not item.get("ETag", "").strip('"'))
    newest = max((second for second in dated if second <= answered + 1), default=0)
    return items, newest + 1 + LATE - answered


def _parsed(body: bytes) -> Mapping[str, Any] | None:
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
