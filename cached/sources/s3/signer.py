"""Sign requests for one S3 client's objects, without a turn on the client's event loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit

from botocore.credentials import RefreshableCredentials  # type: ignore[import-untyped]
from fsspec.asyn import sync

from cached.sources.s3.place import is_amazons, suffix_of, word
from cached.sources.s3.sigv4 import Keys, signed_headers, uri_path
from cached.sources.transport.pool import Request

# The last is the only one in the answer to a HEAD.
EXPIRED = frozenset({"ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "TokenRefreshRequired", "HTTP 400"})
KEYS_SECONDS = 60.0  # botocore refreshes keys a quarter of an hour before they run out.


class S3Signer:
    def __init__(self, client: Any, timeout: float) -> None:
        """Sign for `client`, a connected S3FileSystem; its keys may be a caller's, or a role's that change hourly."""
        self._client, self._timeout = client, timeout
        self._lock = threading.Lock()
        self._keys: Keys | None = None
        self._until = 0.0
        self._scheme = self._host = self._base = self._where = ""
        self.region = self.endpoint = ""
        self.suffix = ""  # The end of host names in Amazon's partition; empty where the endpoint is not Amazon's.

    def request(
        self, bucket: str, key: str, query: Mapping[str, str], headers: Mapping[str, str], method: str = "GET"
    ) -> Request:
        """Return a signed request for the object, or for the bucket (no key), in the path style, which every S3 server
        understands."""
        keys = self._present_keys()
        path = uri_path(f"{self._base}/{bucket}/{key}" if key else f"{self._base}/{bucket}")
        asked = "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in query.items())
        target = f"{path}?{asked}" if asked else path
        if keys is not None:
            now = datetime.now(UTC)
            headers = signed_headers(keys, self.region, self._host, path, query, headers, now, method=method)
        return Request(self._scheme, self._host, target, headers, keys)

    @property
    def where(self) -> str:
        """Return the endpoint that the client really uses, as places name it."""
        self.connect()
        return self._where

    def connect(self) -> None:
        """Connect if necessary, so that `region`, `endpoint` and `suffix` are known."""
        if not self._where:
            self._present_keys()

    def _present_keys(self) -> Keys | None:
        with self._lock:
            if time.monotonic() >= self._until:
                self._keys = sync(self._client.loop, self._fetch_keys, timeout=self._timeout)
                self._until = time.monotonic() + KEYS_SECONDS
            return self._keys

    def forget(self) -> None:
        """Fetch the keys again at the next request: these may not be valid any more."""
        with self._lock:
            self._until = 0.0

    def renew(self, said: str) -> bool:
        """Expire the keys and return True, if S3 has refused with this code for expired keys and new ones can be
        fetched; else return False.

        botocore fetches a role's keys before they expire; but they can be revoked earlier, and where botocore could not
        fetch new ones it continues with the old.
        """
        keys = self._client._s3._request_signer._credentials if self._client._s3 is not None else None
        if said not in EXPIRED or not isinstance(keys, RefreshableCredentials):
            return False
        keys._expiry_time = datetime.now(UTC)
        self.forget()
        return True

    async def _fetch_keys(self) -> Keys | None:
        await self._client.set_session()
        meta = self._client._s3.meta
        parts = urlsplit(meta.endpoint_url)
        host = parts.netloc.rpartition("@")[2]
        self._scheme, self._host, self._base = parts.scheme, host, parts.path.rstrip("/")
        self.region = meta.region_name or "us-east-1"
        self._where = word(meta.endpoint_url, meta.partition, self.region)
        self.endpoint = f"{parts.scheme}://{host}{self._base}"
        self.suffix = suffix_of(meta.partition) if is_amazons(meta.endpoint_url, self.region) else ""
        # The client's own, which may be the caller's keys; the session knows only the daemon's.
        found = self._client._s3._request_signer._credentials if not self._client.anon else None
        if found is None:
            return None
        frozen = await found.get_frozen_credentials()
        return Keys(frozen.access_key, frozen.secret_key, frozen.token)
