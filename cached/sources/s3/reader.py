"""Ranged reads of one S3 object at the version that was listed, through the fast path or through s3fs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from fsspec.asyn import sync

from cached.errors import SourceDenied
from cached.model import Entry
from cached.model_ref import ModelRef
from cached.sources.s3.errors import s3_errors
from cached.sources.s3.signer import S3Signer
from cached.sources.transport.pool import Answer, Lanes, Sink, lane_errors
from cached.sources.transport.ranges import Collector, Span, bytes_to_skip, changed

CHUNK = 1 << 20

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class S3Reader:
    """A reader whose ranges carry `If-Match` or a versionId; each answer's ETag and length are compared as well."""

    def __init__(
        self,
        client: Any,
        signer: S3Signer,
        lanes: Lanes,
        ref: ModelRef,
        bucket: str,
        key: str,
        entry: Entry,
        timeout: float,
    ) -> None:
        self.signer = signer
        self._client, self._lanes, self._ref, self._entry, self._timeout = client, lanes, ref, entry, timeout
        self._object = {"Bucket": bucket, "Key": key}
        self._etag, _, modified = entry.version.partition(" ")
        self._modified = datetime.fromisoformat(modified).astimezone(UTC)
        self._date = "" if self._etag else _http_date(self._modified)
        self._version: str | None = None  # The versionId, once an answer has shown it: old bytes stay readable.
        self._unpinned = False
        self._name = f"s3://{bucket}/{key}"

    def __repr__(self) -> str:
        return f"S3Reader({self._name}, etag={self._etag}, version={self._version})"

    def read(self, offset: int, length: int) -> bytes:
        if not length:
            return b""
        span = Span(self._name, offset, length, self._entry.size)
        try:
            return self._read(span)
        except SourceDenied as error:
            if not self.signer.renew(error.said):
                raise
        return self._read(span)

    def _read(self, span: Span) -> bytes:
        with s3_errors(self._ref, self._name):
            data: bytes = sync(self._client.loop, self._get, span, timeout=self._timeout)
        return data

    def stream(self, offset: int, length: int, sink: Sink) -> bool:
        if not length:
            return False
        span = Span(self._name, offset, length, self._entry.size)
        with s3_errors(self._ref, self._name):
            request = self.signer.request(self._object["Bucket"], self._object["Key"], *self._fast_pin())
        with lane_errors(self._ref):
            taken = self._lanes.stream(request, span, self._timeout, lambda a: self._judge_fast(a, span), sink)
        if not taken:
            self.signer.forget()
        return taken

    def _fast_pin(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the query and the headers that pin the version."""
        if self._version:
            return {"versionId": self._version}, {}
        if self._etag:
            return {}, {"If-Match": f'"{self._etag}"'}
        return {}, {"If-Unmodified-Since": self._date}

    def prove(self, timeout: float) -> None:
        """Return only if the signing keys may read the object, and it is still as it was listed. Raises the errors of
        s3fs too.

        The proof is one byte of it: a HEAD is granted to callers that may not use the key with which the object is
        encrypted. An answer that the fast path does not accept is left to s3fs, which understands it.
        """
        if not self._entry.size:
            self._prove_empty(timeout)
            return
        span, came = Span(self._name, 0, 1, self._entry.size), bytearray()
        request = self.signer.request(self._object["Bucket"], self._object["Key"], *self._fast_pin())
        with lane_errors(self._ref):
            taken = self._lanes.stream(request, span, timeout, self._is_listed, came.extend)
        if not taken:
            self.signer.forget()
            sync(self._client.loop, self._get, span, timeout=timeout)

    def _prove_empty(self, timeout: float) -> None:
        """Prove access to an empty object, of which no range can be requested."""
        request = self.signer.request(self._object["Bucket"], self._object["Key"], {}, {}, "HEAD")
        with lane_errors(self._ref):
            granted = self._lanes.granted(request, timeout, self._is_listed)
        if not granted:
            self._judge(self._client.call_s3("head_object", timeout=timeout, **self._object))

    def _is_listed(self, answer: Answer) -> bool:
        if answer.headers.get("etag", "").strip('"') != self._etag:
            return False
        return bool(self._etag) or self._same_date(answer.headers.get("last-modified", ""))

    def _judge_fast(self, answer: Answer, span: Span) -> bool:
        if not self._is_listed(answer):
            return False
        version = answer.headers.get("x-amz-version-id")
        if version and version != "null":
            self._version = version
        # A server that answers a part with 200 does not know the rules of ranges, so it is not trusted with If-Match,
        # and a date counts in whole seconds only. A file received in one answer is of one version all the same: that
        # of its ETag, or of its date, for which S3Pages has waited.
        pinned = answer.status == 206 and bool(self._etag)
        self._unpinned = self._unpinned or not (pinned or span.length == span.size)
        return True

    def _same_date(self, text: str) -> bool:
        if text == self._date:
            return True
        try:
            return parsedate_to_datetime(text) == self._modified.replace(microsecond=0)
        except ValueError:
            return False

    def recheck(self, resumed: bool = False) -> None:
        """Query the listing once, and only if the reads were not pinned: each answer described itself alone. Raise
        SourceChanged if the version is another."""
        if self._unpinned or resumed:
            with s3_errors(self._ref, self._name):
                item = look_up(self._client, self._object["Bucket"], self._object["Key"], self._timeout)
            if item is None or _version(item) != self._entry.version:
                raise changed(self._name, "its ETag or date is another one")

    def close(self) -> None: ...

    async def _get(self, span: Span) -> bytes:
        answer = await self._client._call_s3("get_object", **self._object, Range=span.header, **self._pin())
        async with answer["Body"] as body:
            self._judge(answer)
            status = answer["ResponseMetadata"]["HTTPStatusCode"]
            # A server that answers a part with 200 does not know the rules of ranges, so it is not trusted with
            # If-Match; and a date counts in whole seconds only.
            self._unpinned = self._unpinned or status != 206 or not self._etag
            skip = bytes_to_skip(span, status, answer.get("ContentRange"), answer.get("ContentLength"))
            collector = Collector(span, skip, time.monotonic() + self._timeout)
            while chunk := await body.read(CHUNK):
                if not collector.take(chunk):
                    break
        version = answer.get("VersionId")
        if version and version != "null":  # "null" is what an unversioned overwrite also writes.
            self._version = version
        return collector.bytes()

    def _pin(self) -> dict[str, Any]:
        if self._version:
            return {"VersionId": self._version}
        return {"IfMatch": f'"{self._etag}"'} if self._etag else {"IfUnmodifiedSince": self._modified}

    def _judge(self, answer: Mapping[str, Any]) -> None:
        if _etag(answer) != self._etag:
            raise changed(self._name, "its ETag is another one")
        if not self._etag and answer["LastModified"] != self._modified.replace(microsecond=0):
            raise changed(self._name, "its date is another one")


def _http_date(moment: datetime) -> str:
    """Format a UTC time by RFC 9110, section 5.6.7. The library's function takes ten times as long."""
    day = f"{_DAYS[moment.weekday()]}, {moment.day:02} {_MONTHS[moment.month - 1]} {moment.year:04}"
    return f"{day} {moment.hour:02}:{moment.minute:02}:{moment.second:02} GMT"


def _etag(answer: Mapping[str, Any]) -> str:
    return str(answer.get("ETag", "")).strip('"')


def object_entry(path: str, size: int, item: Mapping[str, Any]) -> Entry:
    return Entry(path, int(size), _version(item))


def _version(item: Mapping[str, Any]) -> str:
    """Return the ETag and the time: some servers give no ETag, and with some encryptions it says little of content."""
    return f"{_etag(item)} {item['LastModified'].isoformat()}"


def look_up(client: Any, bucket: str, key: str, timeout: float) -> Mapping[str, Any] | None:
    """Return one object as a listing describes it, times in milliseconds included (a HEAD has whole seconds); None if
    it does not exist."""
    page = client.call_s3("list_objects_v2", timeout=timeout, Bucket=bucket, Prefix=key)
    return next((item for item in page.get("Contents", ()) if item["Key"] == key), None)
