"""Ranged reads of one object of Google Cloud Storage, at a generation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

import google.auth.exceptions
import httpx2

from cached.errors import CachedError, SourceError
from cached.model import Entry
from cached.model_ref import ModelRef
from cached.sources.transport.client import HttpRequest, Judge, Web, owner_of
from cached.sources.transport.pool import Answer, Lanes, Request, Sink, lane_errors
from cached.sources.transport.ranges import Span, changed, denied, from_status, spoken, unavailable

if TYPE_CHECKING:
    import gcsfs  # At run time `source` imports it, after setting a variable.

ABSENT = "HTTP 404"
_ADVICE = "check the bucket, and that the credentials (GOOGLE_APPLICATION_CREDENTIALS) may list and read the bucket"


class GcsReader:
    def __init__(
        self,
        web: Web,
        lanes: Lanes,
        client: gcsfs.GCSFileSystem,
        ref: ModelRef,
        bucket: str,
        key: str,
        entry: Entry,
        timeout: float,
    ) -> None:
        self._web, self._lanes, self._client = web, lanes, client
        self._ref, self._entry, self._timeout = ref, entry, timeout
        self._name = f"gs://{bucket}/{key}"
        self._metadata = object_url(client, bucket, key)
        download = f"{client.base.replace('/storage/v1/', '/download/storage/v1/')}b/{quote(bucket, safe='')}"
        self._media = f"{download}/o/{quote(key, safe='')}?alt=media&generation={entry.version}"
        self._unpinned = False
        self._compressed = False  # The object is stored compressed, as an answer to `read` has shown.

    def __repr__(self) -> str:
        return f"GcsReader({self._name}, generation={self._entry.version})"

    def read(self, offset: int, length: int) -> bytes:
        if not length:
            return b""
        span = Span(self._name, offset, length, self._entry.size)
        # Objects stored compressed are sent as they are stored: size and checksums are those of the stored bytes.
        request = HttpRequest(self._media, {"Accept-Encoding": "gzip"}, authorization(self._client, self._ref))
        data, _ = self._web.read(
            self._ref, span, request, timeout=self._timeout, judge=self._judge_answer, stored_encoding=True
        )
        return data

    def stream(self, offset: int, length: int, sink: Sink) -> bool:
        """Read through the fast path; objects that are stored compressed are left to `read`."""
        if not length or self._compressed:
            return False
        span = Span(self._name, offset, length, self._entry.size)
        private = authorization(self._client, self._ref)
        request = Request.of(self._media, {**private, "Accept-Encoding": "gzip"}, owner_of(private))
        with lane_errors(self._ref):
            return self._lanes.stream(request, span, self._timeout, self._judge_lane, sink)

    def _judge_lane(self, answer: Answer) -> bool:
        generation = answer.headers.get("x-goog-generation")
        if generation is None:
            self._unpinned = True
        return generation in (None, self._entry.version)

    def recheck(self, resumed: bool = False) -> None:
        """Check the generation where the server did not name it (emulators ignore the one that was requested). Raise
        SourceChanged if it is another."""
        if self._unpinned or resumed:
            item, _ = self._web.json(
                self._ref,
                self._metadata,
                timeout=self._timeout,
                judge=judge(self._ref, self._name),
                private=authorization(self._client, self._ref),
            )
            self._compare(str(item.get("generation")))

    def close(self) -> None: ...

    def _judge_answer(self, response: httpx2.Response) -> None:
        judge(self._ref, self._name)(response)
        self._compressed = response.headers.get("Content-Encoding", "identity") != "identity"
        generation = response.headers.get("X-Goog-Generation")
        if generation is None:
            self._unpinned = True
        else:
            self._compare(generation)

    def _compare(self, generation: str) -> None:
        if generation != self._entry.version:
            raise changed(self._name, "its generation is another one")


def object_url(client: gcsfs.GCSFileSystem, bucket: str, key: str) -> str:
    return f"{client.base}b/{quote(bucket, safe='')}/o/{quote(key, safe='')}"


def authorization(client: gcsfs.GCSFileSystem, ref: ModelRef) -> Mapping[str, str]:
    """Return the authorization header, refreshed when it is about to expire. Raise SourceUnavailable if Google does not
    answer, SourceDenied if the credentials are not usable."""
    headers: dict[str, str] = {}
    try:
        client.credentials.apply(headers)
    except google.auth.exceptions.TransportError:
        raise unavailable(ref, "Google's token service did not answer", seen=True) from None
    except Exception:
        # gcsfs wraps refresh errors in several classes of its own; all of them mean that there is no token.
        raise denied(ref, "the Google credentials are not usable; check them") from None
    return headers


def judge(ref: ModelRef, file: str = "") -> Judge:
    """Return a judge that raises on failed answers. With `file`, a missing generation means that the file changed."""

    def check(response: httpx2.Response) -> None:
        if response.status_code >= 300:
            raise _translated(ref, file, response)

    return check


def _translated(ref: ModelRef, file: str, response: httpx2.Response) -> CachedError:
    status = response.status_code
    if file and status in (404, 412, 416):
        return changed(file, "its generation is gone")
    if status == 404:
        return denied(ref, _ADVICE, ABSENT)
    if status == 400:
        return SourceError(f"Google Cloud Storage does not understand the request for {spoken(ref)}; check the URI.")
    return from_status(ref, status, _ADVICE, response.headers.get("Retry-After"))
