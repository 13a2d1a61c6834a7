"""S3 and compatible servers. s3fs provides credentials and the connection; versions are ours to pin."""

from __future__ import annotations

import functools
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import s3fs

from cached.access import Credentials
from cached.config import Config
from cached.errors import CachedError, InvalidRequest, SourceDenied
from cached.model import Entry, Listing, listing_revision
from cached.model_ref import ModelRef
from cached.sources.s3.errors import s3_errors
from cached.sources.s3.listing import S3Pages
from cached.sources.s3.place import endpoint_of
from cached.sources.s3.principal import Principals
from cached.sources.s3.reader import S3Reader
from cached.sources.s3.session import Staying, new_session
from cached.sources.s3.signer import S3Signer
from cached.sources.s3.sigv4 import Keys
from cached.sources.transport.pool import Lanes
from cached.sources.transport.ranges import changed, proving, spoken

Result = TypeVar("Result")

KEYS = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"
CLIENTS = 8  # Clients kept, one for each set of credentials in use.

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]\Z", re.IGNORECASE)


class S3Source:
    """A source whose listings name each object's ETag; readers use a versionId once the bucket has shown one."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._options = dict(config.source_options.get("s3", {}))
        self._endpoint = endpoint_of(config, self._options)
        self._clients: OrderedDict[tuple[bool, tuple[tuple[str, str], ...]], tuple[Any, S3Signer]] = OrderedDict()
        self._lock = threading.Lock()
        self._lanes = Lanes()
        self._principals = Principals(self._lanes)

    def resolve(self, ref: ModelRef, credentials: Credentials, timeout: float) -> Listing:
        bucket, prefix, _ = _split(ref)
        client, signer = self._client(ref, credentials)
        pages = S3Pages(ref, client, signer, self._lanes, timeout)
        found = _with_present_keys(ref, signer, lambda: pages.entries(bucket, prefix))
        if not found and prefix:
            with s3_errors(ref):
                prefix, found = _single(pages, bucket, prefix)
        entries = tuple(entry for entry in found if ref.selects(entry.path))
        place = f"{self._where(ref, signer)}{bucket}/{prefix}"
        return Listing(ref, place, listing_revision(entries), entries, _anonymous(ref, credentials))

    def prove(self, listing: Listing, entry: Entry, credentials: Credentials, timeout: float) -> None:
        reader = self.open(listing, entry, credentials)
        with proving(listing.ref):
            _with_present_keys(listing.ref, reader.signer, lambda: reader.prove(timeout))

    def principal(self, credentials: Credentials, timeout: float) -> str | None:
        access, secret, token = (credentials.get(name) for name in KEYS)
        if not access or not secret or not token:
            return None
        ref = ModelRef("s3://anywhere")
        try:
            _, signer = self._client(ref, credentials)
            with s3_errors(ref):
                signer.connect()
            return self._principals.of(Keys(access, secret, token), signer, timeout)
        except CachedError:
            return None

    def open(self, listing: Listing, entry: Entry, credentials: Credentials) -> S3Reader:
        client, signer = self._client(listing.ref, credentials)
        bucket, key = self._object(listing, entry, signer)
        timeout = float(self._config.read_timeout)
        return S3Reader(client, signer, self._lanes, listing.ref, bucket, key, entry, timeout)

    def close(self) -> None:
        with self._lock:
            self._clients.clear()
        self._lanes.close()

    def _where(self, ref: ModelRef, signer: S3Signer) -> str:
        """Return the beginning of the places at this endpoint."""
        if self._endpoint:
            return f"s3://{self._endpoint.partition('://')[2].rstrip('/')}/"
        with s3_errors(ref):
            return f"s3://{signer.where}/"

    def _object(self, listing: Listing, entry: Entry, signer: S3Signer) -> tuple[str, str]:
        """Return the entry's bucket and key. Raise SourceChanged if these credentials lead to another place than the
        listing's."""
        where = self._where(listing.ref, signer)
        if not listing.place.startswith(where):
            raise changed(spoken(listing.ref), "its region or endpoint is another one")
        bucket, _, prefix = listing.place.removeprefix(where).partition("/")
        return bucket, f"{prefix}/{entry.path}" if prefix else entry.path

    def _client(self, ref: ModelRef, credentials: Credentials) -> tuple[Any, S3Signer]:
        """Return a connected filesystem for these credentials, and its signer. Both are shared: connecting takes a
        tenth of a second."""
        anonymous = _anonymous(ref, credentials)
        # Other sources' variables are ignored here.
        key = anonymous, tuple(sorted(pair for pair in credentials.variables.items() if pair[0].startswith("AWS_")))
        with self._lock:
            if key not in self._clients:
                with s3_errors(ref):
                    client = s3fs.S3FileSystem(**self._client_options(anonymous, credentials))
                client.retries = 1  # The caller retries, and knows for how long.
                self._clients[key] = client, S3Signer(client, float(self._config.resolve_timeout))
                while len(self._clients) > CLIENTS:
                    self._clients.popitem(last=False)
            self._clients.move_to_end(key)
            return self._clients[key]

    def _client_options(self, anonymous: bool, credentials: Credentials) -> dict[str, Any]:
        config, extra = self._config, dict(self._options)
        asked = credentials.get("AWS_REGION") or credentials.get("AWS_DEFAULT_REGION") or ""
        region = config.s3_region or asked.lower()  # botocore tells partitions apart by case, host names do not.
        named = {name: v for name, v in _table(extra.pop("client_kwargs", {})).items() if name != "endpoint_url"}
        extra.pop("endpoint_url", None)
        options: dict[str, Any] = {
            "endpoint_url": self._endpoint or None,
            "skip_instance_cache": True,
            "use_listings_cache": False,
            "client_kwargs": {**({"region_name": region} if region else {}), **named},
            "config_kwargs": {
                "connect_timeout": 10,
                "read_timeout": float(config.read_timeout),
                "retries": {"total_max_attempts": 1},
                "max_pool_connections": config.connections + 4,
                "http_session_cls": Staying,
                # Whole-object checksums say nothing about ranges, and many S3 servers do not know them.
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
                **_table(extra.pop("config_kwargs", {})),
            },
            **extra,
        }
        profile: str | None = None
        names = dict(zip(("key", "secret", "token"), KEYS, strict=True))
        if anonymous:
            options = {name: value for name, value in options.items() if name not in names} | {"anon": True}
        elif credentials.get("AWS_ACCESS_KEY_ID"):
            options |= {name: credentials.get(variable) for name, variable in names.items()} | {"anon": False}
        elif config.s3_profile:
            profile = config.s3_profile
        return {"session": new_session(profile), **options}


def _with_present_keys(ref: ModelRef, signer: S3Signer, work: Callable[[], Result]) -> Result:
    """Run `work`, and once more with new keys if a role's keys have expired."""
    try:
        with s3_errors(ref):
            return work()
    except SourceDenied as error:
        if not signer.renew(error.said):
            raise
    with s3_errors(ref):
        return work()


def _single(pages: S3Pages, bucket: str, key: str) -> tuple[str, list[Entry]]:
    """Return the folder and the object if the URI names one object, which is then the model; else the key and no
    entries."""
    folder, _, name = key.rpartition("/")
    found = pages.entry(bucket, key, name)
    return (folder, [found]) if found else (key, [])


@functools.lru_cache(maxsize=64)
def _split(ref: ModelRef) -> tuple[str, str, bool]:
    """Return bucket, prefix without slashes at its ends, and True if requests are not to be signed. Raise
    InvalidRequest if the URI names no bucket or contains keys."""
    bucket, _, prefix = ref.place.partition("/")
    user, at, rest = bucket.rpartition("@")
    if at and user != "anonymous":
        raise InvalidRequest("Keys do not belong into a URI: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead.")
    if not _BUCKET.match(rest):
        raise InvalidRequest(f"{spoken(ref)} names no bucket; write s3://bucket/prefix.")
    return rest, prefix.strip("/"), bool(at)


def _anonymous(ref: ModelRef, credentials: Credentials) -> bool:
    """Return True if requests are not to be signed: the URI says so, or the caller has no keys and may not use the
    daemon's."""
    return _split(ref)[2] or not (credentials.lend or credentials.personal("s3"))


def _table(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
