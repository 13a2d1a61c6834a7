"""Google Cloud Storage. gcsfs provides credentials and addresses; an object's generation pins every read."""

from __future__ import annotations

import base64
import binascii
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

# Must be set before the import: otherwise gcsfs queries a gRPC control plane for each bucket's type first, which
# stalls for a minute wherever only the JSON API can be reached.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

import gcsfs
import google.auth.exceptions

from cached import budget
from cached.access import Credentials
from cached.config import Config
from cached.errors import InvalidRequest, SourceDenied
from cached.model import Checksum, Entry, Listing, listing_revision
from cached.model_ref import ModelRef
from cached.sources.gcs.reader import ABSENT, GcsReader, authorization, judge, object_url
from cached.sources.source import Reader
from cached.sources.transport.client import Web
from cached.sources.transport.pool import Lanes
from cached.sources.transport.ranges import changed, denied, spoken, unavailable

CLIENTS = 8  # Clients kept, one for each set of credentials in use.

# Other fields name hosts (universe_domain), or become headers of every request (trust_boundary, quota_project_id).
_ACCOUNT = (
    "type",
    "project_id",
    "private_key_id",
    "private_key",
    "client_email",
    "client_id",
    "client_secret",
    "refresh_token",
    "token_uri",
)
_TOKEN_HOSTS = ("https://oauth2.googleapis.com/token", "https://accounts.google.com/o/oauth2/token")


class GcsSource:
    def __init__(self, config: Config, web: Web) -> None:
        self._web = web
        self._lanes = Lanes()
        self._options = dict(config.source_options.get("gs", {}))
        endpoint = config.gs_endpoint or os.environ.get("STORAGE_EMULATOR_HOST") or ""
        if endpoint in ("", "default"):
            endpoint = ""
        elif "://" not in endpoint:
            endpoint = f"http://{endpoint}"
        self._endpoint = endpoint.rstrip("/")
        self._read_timeout = float(config.read_timeout)
        self._clients: OrderedDict[str, gcsfs.GCSFileSystem] = OrderedDict()
        self._lock = threading.Lock()

    def resolve(self, ref: ModelRef, credentials: Credentials, timeout: float) -> Listing:
        bucket, prefix, _ = _split(ref)
        client = self._client(ref, credentials)
        found = self._list(client, ref, bucket, prefix, timeout)
        if not found and prefix:
            prefix, found = self._single(client, ref, bucket, prefix, timeout)
        entries = tuple(entry for entry in found if ref.selects(entry.path))
        open_to_all = self._anonymous(ref, credentials)
        return Listing(ref, f"{_where(client)}{bucket}/{prefix}", listing_revision(entries), entries, open_to_all)

    def prove(self, listing: Listing, entry: Entry, credentials: Credentials, timeout: float) -> None:
        """Prove access by the object's metadata, which needs the same right as its bytes: storage.objects.get."""
        ref, client = listing.ref, self._client(listing.ref, credentials)
        bucket, key = _object(client, listing, entry)
        url, name = object_url(client, bucket, key), f"gs://{bucket}/{key}"

        def look(query: str) -> str:
            private = authorization(client, ref)
            item, _ = self._web.json(ref, f"{url}?{query}", timeout=timeout, judge=judge(ref), private=private)
            return str(item.get("generation")) if isinstance(item, dict) else ""

        try:
            found = look(f"generation={quote(entry.version, safe='')}&fields=generation")
        except SourceDenied as error:
            if error.said != ABSENT:
                raise
            found = look("fields=generation")  # Raises again if the object does not exist.
        if found != entry.version:
            raise changed(name, "its generation is another one")

    def principal(self, credentials: Credentials, timeout: float) -> str | None:
        return None

    def open(self, listing: Listing, entry: Entry, credentials: Credentials) -> Reader:
        client = self._client(listing.ref, credentials)
        bucket, key = _object(client, listing, entry)
        return GcsReader(self._web, self._lanes, client, listing.ref, bucket, key, entry, self._read_timeout)

    def close(self) -> None:
        with self._lock:
            self._clients.clear()
        self._lanes.close()

    def _anonymous(self, ref: ModelRef, credentials: Credentials) -> bool:
        """Return True if no token is to be sent: the URI says so, the caller has none, or it is an emulator."""
        if _split(ref)[2] or not (credentials.lend or credentials.personal("gs")):
            return True
        return bool(self._endpoint) and not credentials.personal("gs") and "token" not in self._options

    def _list(
        self, client: gcsfs.GCSFileSystem, ref: ModelRef, bucket: str, prefix: str, timeout: float
    ) -> list[Entry]:
        below = f"{prefix}/" if prefix else ""
        query = {"prefix": below, "fields": "items(name,size,generation,md5Hash,crc32c),nextPageToken"}
        entries: list[Entry] = []
        while True:
            url = f"{client.base}b/{quote(bucket, safe='')}/o?{urlencode(query)}"
            page, _ = self._web.json(ref, url, timeout=timeout, judge=judge(ref), private=authorization(client, ref))
            try:
                budget.listed(len(entries) + len(page.get("items") or ()))
                for item in page.get("items") or ():
                    if not (int(item.get("size", 0)) == 0 and item["name"].endswith("/")):
                        entries.append(_entry(item["name"][len(below) :], item))
            except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
                raise unavailable(ref, "its listing is not understood") from None
            if not page.get("nextPageToken"):
                return entries
            query["pageToken"] = page["nextPageToken"]

    def _single(
        self, client: gcsfs.GCSFileSystem, ref: ModelRef, bucket: str, key: str, timeout: float
    ) -> tuple[str, list[Entry]]:
        """Return the folder and the object if the URI names one object, which is then the model; else the key and no
        entries."""
        folder, _, name = key.rpartition("/")
        try:
            item, _ = self._web.json(
                ref,
                object_url(client, bucket, key),
                timeout=timeout,
                judge=judge(ref),
                private=authorization(client, ref),
            )
        except SourceDenied as error:
            if error.said != ABSENT:
                raise
            return key, []
        return folder, [_entry(name, item)]

    def _client(self, ref: ModelRef, credentials: Credentials) -> gcsfs.GCSFileSystem:
        text = credentials.get("GOOGLE_APPLICATION_CREDENTIALS_JSON")
        anonymous = self._anonymous(ref, credentials)
        key = "anon" if anonymous else text or ""
        with self._lock:
            if key not in self._clients:
                self._clients[key] = self._connect(ref, _service_account(text) if text else None, anonymous)
                while len(self._clients) > CLIENTS:
                    self._clients.popitem(last=False)
            self._clients.move_to_end(key)
            return self._clients[key]

    def _connect(self, ref: ModelRef, account: Mapping[str, Any] | None, anonymous: bool) -> gcsfs.GCSFileSystem:
        options = {"access": "read_only", **self._options, "skip_instance_cache": True, "use_listings_cache": False}
        if self._endpoint:
            options["endpoint_url"] = self._endpoint
        if anonymous or account:
            options["token"] = "anon" if anonymous else account
        try:
            try:
                return gcsfs.GCSFileSystem(**{"token": "google_default", **options})
            except google.auth.exceptions.DefaultCredentialsError:
                return gcsfs.GCSFileSystem(**{**options, "token": "anon"})  # Public buckets need none.
        except (google.auth.exceptions.GoogleAuthError, OSError, ValueError, KeyError):
            raise denied(ref, "the Google credentials are not usable; check them") from None


def _where(client: gcsfs.GCSFileSystem) -> str:
    """Return the beginning of the places that this client uses: by a setting, by `source_options`, or at Google's."""
    # Machines with a certificate of their own use another name for Google's endpoint.
    return f"gs://{client.base.partition('://')[2].removesuffix('/storage/v1/').removeprefix('mtls.')}/"


def _object(client: gcsfs.GCSFileSystem, listing: Listing, entry: Entry) -> tuple[str, str]:
    """Return the entry's bucket and key. Raise SourceChanged if the listing is of another place than the client's."""
    if not listing.place.startswith(_where(client)):
        raise changed(spoken(listing.ref), "its endpoint is another one")
    bucket, _, prefix = listing.place.removeprefix(_where(client)).partition("/")
    return bucket, f"{prefix}/{entry.path}" if prefix else entry.path


def _entry(path: str, item: Mapping[str, Any]) -> Entry:
    checksums = []
    for algorithm, field in (("md5", "md5Hash"), ("crc32c", "crc32c")):
        if item.get(field):
            checksums.append(Checksum(algorithm, _hex(str(item[field]))))
    return Entry(path, int(item.get("size", 0)), str(item["generation"]), None, tuple(checksums))


def _hex(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).hex()
    except binascii.Error:
        raise ValueError(f"not base64: {text[:40]!r}") from None


def _split(ref: ModelRef) -> tuple[str, str, bool]:
    bucket, _, prefix = ref.place.partition("/")
    user, at, rest = bucket.rpartition("@")
    if (at and user != "anonymous") or not rest:
        raise InvalidRequest(
            f"{spoken(ref)} names no bucket; write gs://bucket/prefix or gs://anonymous@bucket/prefix."
        )
    return rest, prefix.strip("/"), bool(at)


def _service_account(text: str) -> Mapping[str, Any]:
    """Return the known fields of a caller's own key. Tokens for it are requested only from Google: its other fields are
    the caller's to write. Raise InvalidRequest if it is not the key of an account."""
    try:
        account = json.loads(text)
    except ValueError:
        account = None
    if not isinstance(account, dict) or account.get("type") not in ("service_account", "authorized_user"):
        raise InvalidRequest("GOOGLE_APPLICATION_CREDENTIALS_JSON is not the key of a service account or a user.")
    if account.get("token_uri", _TOKEN_HOSTS[0]) not in _TOKEN_HOSTS:
        raise InvalidRequest("GOOGLE_APPLICATION_CREDENTIALS_JSON names a token_uri that is not Google's.")
    return {name: account[name] for name in _ACCOUNT if name in account}
