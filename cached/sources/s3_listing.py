"""The objects below a prefix. Pages come through the fast lane; where that does not serve, through s3fs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from xml.etree import ElementTree

from cached.model import Entry, ModelRef
from cached.sources.lane import Lanes, lane_errors
from cached.sources.s3_reader import object_entry
from cached.sources.s3_signer import S3Signer

_SPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


class S3Pages:
    """`list_objects_v2` (https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html), page by page."""

    def __init__(self, ref: ModelRef, client: Any, signer: S3Signer, lanes: Lanes, timeout: float) -> None:
        self._ref, self._client, self._signer, self._lanes, self._timeout = ref, client, signer, lanes, timeout

    def entries(self, bucket: str, prefix: str) -> list[Entry]:
        """Every object below `prefix/`; the markers that consoles leave for folders are not files.

        Raises what s3fs raises, and SourceUnavailable.
        """
        below = f"{prefix}/" if prefix else ""
        return [
            object_entry(item["Key"][len(below) :], item["Size"], item)
            for item in self._items(bucket, below)
            if not (item["Size"] == 0 and item["Key"].endswith("/"))
        ]

    def _items(self, bucket: str, below: str) -> Iterator[Mapping[str, Any]]:
        token: str | None = None
        while True:
            page = self._fast(bucket, below, token) or self._slow(bucket, below, token)
            yield from page.get("Contents", ())
            if not page.get("IsTruncated"):
                return
            token = page["NextContinuationToken"]

    def _slow(self, bucket: str, below: str, token: str | None) -> Mapping[str, Any]:
        more = {"ContinuationToken": token} if token else {}
        page: Mapping[str, Any] = self._client.call_s3(
            "list_objects_v2", timeout=self._timeout, Bucket=bucket, Prefix=below, **more
        )
        return page

    def _fast(self, bucket: str, below: str, token: str | None) -> Mapping[str, Any] | None:
        """botocore takes a tenth of a second for what the XML parser does in three milliseconds."""
        query = {"list-type": "2", "prefix": below} | ({"continuation-token": token} if token else {})
        try:
            request = self._signer.request(bucket, "", query, {})
            with lane_errors(self._ref):
                body = self._lanes.text(request, self._timeout)
            return _parsed(body) if body is not None else None
        except (ElementTree.ParseError, KeyError, ValueError):
            return None


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
