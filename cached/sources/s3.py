"""S3 and whatever speaks its protocol. s3fs brings credentials and the connection; versions are ours to pin."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from http.client import HTTPMessage
from typing import Any
from urllib.parse import quote

import aiohttp
import botocore.exceptions as boto  # type: ignore[import-untyped]
import s3fs
from botocore.auth import S3SigV4Auth  # type: ignore[import-untyped]
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
from fsspec.asyn import sync
from fsspec.exceptions import FSTimeoutError

from cached.config import Config
from cached.errors import CachedError, InvalidRequest, ModelNotFound, SourceError
from cached.model import Credentials, Entry, Listing, ModelRef, listing_revision
from cached.sources.base import Reader
from cached.sources.lane import Lanes, Request
from cached.sources.transfer import Collector, Span, bytes_to_skip, changed, denied, from_status, spoken, unavailable

CLIENTS = 8  # Clients kept, one for each set of credentials in use.
CHUNK = 1 << 20

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]\Z", re.IGNORECASE)
_DENIED = frozenset(
    {"AccessDenied", "AllAccessDisabled", "AuthorizationHeaderMalformed", "ExpiredToken", "InvalidAccessKeyId"}
    | {"InvalidSecurity", "InvalidToken", "NotSignedUp", "RequestTimeTooSkewed", "SignatureDoesNotMatch"}
    # What servers say to a request that is not signed, beside AccessDenied; the second is rclone's.
    | {"MissingSecurityHeader", "UnsupportedAlgorithm", "TokenRefreshRequired"}
)
_ADVICE = "check the AWS keys, profile or role, or write s3://anonymous@bucket/prefix for a public bucket"


class S3Source:
    """Listings name each object's ETag; readers turn that into a versionId as soon as the bucket shows one."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._options = dict(config.source_options.get("s3", {}))
        environment = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        self._endpoint = config.s3_endpoint or environment or ""
        self._clients: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._lanes = Lanes()

    def resolve(self, ref: ModelRef, credentials: Credentials, timeout: float) -> Listing:
        bucket, prefix, _ = _split(ref)
        client = self._client(ref, credentials)
        with s3_errors(ref):
            found = self._list(client, bucket, prefix, timeout)
            if not found and prefix:
                prefix, found = self._single(client, bucket, prefix, timeout)
        entries = tuple(entry for entry in found if ref.selects(entry.path))
        place = f"{self._where()}{bucket}/{prefix}"
        return Listing(ref, place, listing_revision(entries), entries)

    def open(self, listing: Listing, entry: Entry, credentials: Credentials) -> Reader:
        bucket, _, prefix = listing.place.removeprefix(self._where()).partition("/")
        key = f"{prefix}/{entry.path}" if prefix else entry.path
        client = self._client(listing.ref, credentials)
        return S3Reader(client, self._lanes, listing.ref, bucket, key, entry, float(self._config.read_timeout))

    def close(self) -> None:
        with self._lock:
            self._clients.clear()
        self._lanes.close()

    def _where(self) -> str:
        return f"s3://{self._endpoint.partition('://')[2].rstrip('/') or 'amazonaws.com'}/"

    def _list(self, client: Any, bucket: str, prefix: str, timeout: float) -> list[Entry]:
        """Every object below `prefix/`, page by page; the markers that consoles leave for folders are not files."""
        below = f"{prefix}/" if prefix else ""
        query: dict[str, Any] = {"Bucket": bucket, "Prefix": below}
        entries: list[Entry] = []
        while True:
            page = client.call_s3("list_objects_v2", timeout=timeout, **query)
            for item in page.get("Contents", ()):
                if not (item["Size"] == 0 and item["Key"].endswith("/")):
                    entries.append(_entry(item["Key"][len(below) :], item["Size"], item))
            if not page.get("IsTruncated"):
                return entries
            query["ContinuationToken"] = page["NextContinuationToken"]

    def _single(self, client: Any, bucket: str, key: str, timeout: float) -> tuple[str, list[Entry]]:
        """The URI may name one object: then that is the model, in its folder."""
        folder, _, name = key.rpartition("/")
        item = _look_up(client, bucket, key, timeout)
        return (folder, [_entry(name, item["Size"], item)]) if item else (key, [])

    def _client(self, ref: ModelRef, credentials: Credentials) -> Any:
        """A connected filesystem for these credentials; shared, for it takes a tenth of a second to make one."""
        options = self._client_options(_split(ref)[2], credentials)
        key = json.dumps(options, sort_keys=True, default=str)
        with self._lock:
            if key not in self._clients:
                with s3_errors(ref):
                    client = s3fs.S3FileSystem(**options)
                client.retries = 1  # The caller retries, and knows for how long.
                self._clients[key] = client
                while len(self._clients) > CLIENTS:
                    self._clients.popitem(last=False)
            self._clients.move_to_end(key)
            return self._clients[key]

    def _client_options(self, anonymous: bool, credentials: Credentials) -> dict[str, Any]:
        config, extra = self._config, dict(self._options)
        region = config.s3_region or credentials.get("AWS_REGION") or credentials.get("AWS_DEFAULT_REGION")
        options: dict[str, Any] = {
            "endpoint_url": self._endpoint or None,
            "skip_instance_cache": True,
            "use_listings_cache": False,
            "client_kwargs": {**({"region_name": region} if region else {}), **_table(extra.pop("client_kwargs", {}))},
            "config_kwargs": {
                "connect_timeout": 10,
                "read_timeout": float(config.read_timeout),
                "retries": {"total_max_attempts": 1},
                "max_pool_connections": config.connections + 4,
                # Whole-object checksums say nothing about ranges, and many S3 servers do not know them.
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
                **_table(extra.pop("config_kwargs", {})),
            },
            **extra,
        }
        names = {"key": "AWS_ACCESS_KEY_ID", "secret": "AWS_SECRET_ACCESS_KEY", "token": "AWS_SESSION_TOKEN"}
        if anonymous:
            options = {name: value for name, value in options.items() if name not in names} | {"anon": True}
        elif credentials.get("AWS_ACCESS_KEY_ID"):
            options |= {name: credentials.get(variable) for name, variable in names.items()} | {"anon": False}
        elif config.s3_profile:
            options["profile"] = config.s3_profile
        return options


class S3Reader:
    """Each range carries `If-Match` or a versionId, and each answer's ETag and length are compared as well."""

    def __init__(
        self, client: Any, lanes: Lanes, ref: ModelRef, bucket: str, key: str, entry: Entry, timeout: float
    ) -> None:
        self._client, self._lanes, self._ref, self._entry, self._timeout = client, lanes, ref, entry, timeout
        self._object = {"Bucket": bucket, "Key": key}
        self._etag, _, modified = entry.version.partition(" ")
        self._modified = datetime.fromisoformat(modified)
        self._version: str | None = None  # The versionId, once an answer has shown it: old bytes stay readable.
        self._unpinned = False
        self._name = f"s3://{bucket}/{key}"

    def __repr__(self) -> str:
        return f"S3Reader({self._name}, etag={self._etag}, version={self._version})"

    def read(self, offset: int, length: int) -> bytes:
        if not length:
            return b""
        span = Span(self._name, offset, length, self._entry.size)
        with s3_errors(self._ref, self._name):
            data: bytes = sync(self._client.loop, self._get, span, timeout=self._timeout)
        return data

    def stream(self, offset: int, length: int, sink: Callable[[memoryview], None]) -> bool:
        if not length or not self._etag:
            return False
        span = Span(self._name, offset, length, self._entry.size)
        with s3_errors(self._ref, self._name):
            request = sync(self._client.loop, self._signed, span, timeout=self._timeout)
        try:
            return self._lanes.stream(request, span, self._timeout, self._same_version, sink)
        except TimeoutError:
            raise unavailable(self._ref, "it sends too slowly") from None
        except OSError as error:
            raise unavailable(self._ref, f"the connection failed: {type(error).__name__}") from None

    async def _signed(self, span: Span) -> Request:
        """A GET of the object, signed as botocore signs it; the Range is not among what is signed."""
        await self._client.set_session()
        client = self._client._s3
        pin = {"If-Match": f'"{self._etag}"'} if not self._version else {}
        query = f"?versionId={quote(self._version, safe='')}" if self._version else ""
        path = quote(f"/{self._object['Bucket']}/{self._object['Key']}", safe="/-_.~")
        request = AWSRequest(method="GET", url=f"{client.meta.endpoint_url.rstrip('/')}{path}{query}", headers=pin)
        credentials = await self._client.session.get_credentials() if not self._client.anon else None
        if credentials is not None:
            frozen = await credentials.get_frozen_credentials()
            S3SigV4Auth(frozen, "s3", client.meta.region_name or "us-east-1").add_auth(request)
        return Request(request.url, dict(request.headers.items()))

    def _same_version(self, headers: HTTPMessage) -> bool:
        if str(headers.get("ETag", "")).strip('"') != self._etag:
            return False
        version = headers.get("x-amz-version-id")
        if version and version != "null":
            self._version = version
        # A server that calls a part 200 does not know the rules of ranges, so it is not trusted with If-Match.
        self._unpinned = self._unpinned or headers.get("x-amz-version-id") is None
        return True

    def recheck(self) -> None:
        """One look at the listing, and only where the reads were not pinned: each answer spoke for itself alone."""
        if self._unpinned:
            with s3_errors(self._ref, self._name):
                item = _look_up(self._client, self._object["Bucket"], self._object["Key"], self._timeout)
            if item is None or _version(item) != self._entry.version:
                raise changed(self._name, "its ETag or date is another one")

    def close(self) -> None: ...

    async def _get(self, span: Span) -> bytes:
        answer = await self._client._call_s3("get_object", **self._object, Range=span.header, **self._pin())
        async with answer["Body"] as body:
            self._judge(answer)
            status = answer["ResponseMetadata"]["HTTPStatusCode"]
            # A server that calls a part 200 does not know the rules of ranges, so it is not trusted with If-Match;
            # and a date counts in whole seconds only.
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


def _etag(answer: Mapping[str, Any]) -> str:
    return str(answer.get("ETag", "")).strip('"')


def _entry(path: str, size: int, item: Mapping[str, Any]) -> Entry:
    return Entry(path, int(size), _version(item))


def _version(item: Mapping[str, Any]) -> str:
    """The ETag and the time: some servers give no ETag, and with some encryptions it says little about content."""
    return f"{_etag(item)} {item['LastModified'].isoformat()}"


def _look_up(client: Any, bucket: str, key: str, timeout: float) -> Mapping[str, Any] | None:
    """One object as a listing tells it, times in milliseconds included (a HEAD has whole seconds)."""
    page = client.call_s3("list_objects_v2", timeout=timeout, Bucket=bucket, Prefix=key)
    return next((item for item in page.get("Contents", ()) if item["Key"] == key), None)


def _split(ref: ModelRef) -> tuple[str, str, bool]:
    """Bucket, prefix without slashes at its ends, and whether to ask without signing."""
    bucket, _, prefix = ref.place.partition("/")
    user, at, rest = bucket.rpartition("@")
    if at and user != "anonymous":
        raise InvalidRequest("Keys do not belong into a URI: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead.")
    if not _BUCKET.match(rest):
        raise InvalidRequest(f"{spoken(ref)} names no bucket; write s3://bucket/prefix.")
    return rest, prefix.strip("/"), bool(at)


def _table(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


@contextmanager
def s3_errors(ref: ModelRef, file: str = "") -> Iterator[None]:
    """The errors of s3fs, botocore and aiohttp as ours. With `file`, a missing object means that it went away."""
    try:
        yield
    except CachedError:
        raise
    except (FSTimeoutError, TimeoutError):
        raise unavailable(ref, "it did not answer in time") from None
    except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound):
        raise denied(ref, f"there are no AWS credentials for it; {_ADVICE}") from None
    except (boto.ParamValidationError, boto.NoRegionError, boto.InvalidRegionError):
        raise InvalidRequest(f"{spoken(ref)} is not a place in S3; check the bucket, and the region setting.") from None
    except (boto.BotoCoreError, aiohttp.ClientError) as error:
        raise unavailable(ref, f"the connection failed: {type(error).__name__}") from None
    except (boto.ClientError, OSError) as error:
        raise _translated(ref, file, error) from None


def _translated(ref: ModelRef, file: str, error: Exception) -> CachedError:
    # s3fs makes OSErrors of S3's answers and keeps the answer as the cause.
    answer = error if isinstance(error, boto.ClientError) else error.__cause__
    if not isinstance(answer, boto.ClientError):
        return unavailable(ref, f"the connection failed: {type(error).__name__}")
    code = str(answer.response.get("Error", {}).get("Code", ""))
    metadata: Mapping[str, Any] = answer.response.get("ResponseMetadata", {})
    status = int(metadata.get("HTTPStatusCode", 0))
    if code == "PreconditionFailed" or status in (412, 416):
        return changed(file or spoken(ref), "its ETag or size is another one")
    if code in _DENIED:
        return denied(ref, _ADVICE)
    if status == 404 or code in ("NoSuchKey", "NoSuchVersion"):
        return changed(file, "it is gone") if file else ModelNotFound(_missing(ref, code))
    if status in (301, 307):
        return SourceError(f"The bucket of {spoken(ref)} is in another region; set s3_region or AWS_REGION to it.")
    if code in ("SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable"):
        return unavailable(ref, code, metadata.get("HTTPHeaders", {}).get("retry-after"))
    return from_status(ref, status, _ADVICE, metadata.get("HTTPHeaders", {}).get("retry-after"))


def _missing(ref: ModelRef, code: str) -> str:
    what = "the bucket does not exist" if code == "NoSuchBucket" else "the place does not exist"
    return f"There are no model files at {spoken(ref)}: {what}; check the URI."
