"""Azure Blob Storage (abfss://, azure://, az://, abfs://). adlfs provides the connection; an ETag pins every read.

A URI names container and account: `abfss://container@account.dfs.core.windows.net/prefix`, as Azure and Ray write it,
or `az://container@account/prefix`. The host is never the caller's to choose: it follows from the account's name and the
setting `azure_endpoint` alone.
"""

from __future__ import annotations

import functools
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from adlfs import AzureBlobFileSystem
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob.aio import BlobServiceClient
from fsspec.asyn import sync

from cached import budget
from cached.access import Credentials
from cached.config import Config
from cached.errors import InvalidRequest
from cached.model import Entry, Listing, listing_revision
from cached.model_ref import ModelRef
from cached.sources.azure.errors import azure_errors
from cached.sources.azure.login import default_login, login, own_variables
from cached.sources.azure.reader import AzureReader, patience
from cached.sources.transport.ranges import denied, proving, spoken
from cached.sources.transport.waiting import run_on

CLIENTS = 8  # Clients kept, one for each account and set of credentials in use.
ENDPOINT = "https://{account}.blob.core.windows.net"

_CONTAINER = re.compile(r"\$?[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_ACCOUNT = re.compile(r"([a-z0-9]{3,24})(?:\.(?:dfs|blob)\.core\.windows\.net)?\Z")


class AzureSource:
    def __init__(self, config: Config, scheme: str) -> None:
        endpoint = (config.azure_endpoint or ENDPOINT).rstrip("/")
        self._endpoint = endpoint if "{account}" in endpoint else f"{endpoint}/{{account}}"  # As emulators have it.
        self._read_timeout = float(config.read_timeout)
        self._own = own_variables(config.source_options.get(scheme, {}), os.environ)
        self._clients: OrderedDict[tuple[str, tuple[tuple[str, str], ...] | None], Connection] = OrderedDict()
        self._lock = threading.Lock()

    def resolve(self, ref: ModelRef, credentials: Credentials, timeout: float) -> Listing:
        container, account, prefix = _split(ref)
        fs = self._client(ref, credentials)
        with azure_errors(ref):
            found: Iterable[Entry] = run_on(fs.loop, fs.entries(container, prefix, timeout), timeout)
            if not found and prefix:  # The URI may name one blob: then that blob is the model, in its folder.
                folder, _, name = prefix.rpartition("/")
                single = run_on(fs.loop, fs.entry(container, prefix, name, timeout), timeout)
                prefix, found = (folder, [single]) if single is not None else (prefix, [])
        entries = tuple(entry for entry in found if ref.selects(entry.path))
        place = f"{self._where(account)}{container}/{prefix}"
        return Listing(ref, place, listing_revision(entries), entries, self._anonymous(ref, credentials))

    def prove(self, listing: Listing, entry: Entry, credentials: Credentials, timeout: float) -> None:
        with proving(listing.ref), azure_errors(listing.ref):
            self.open(listing, entry, credentials).prove(timeout)

    def principal(self, credentials: Credentials, timeout: float) -> str | None:
        return None

    def open(self, listing: Listing, entry: Entry, credentials: Credentials) -> AzureReader:
        container, key = self._blob(listing, entry)
        fs = self._client(listing.ref, credentials)
        return AzureReader(fs, listing.ref, container, key, entry, self._read_timeout)

    def close(self) -> None:
        with self._lock:
            clients = list(self._clients.values())
            self._clients.clear()
        for client in clients:
            client.end()

    def _where(self, account: str) -> str:
        return f"azure://{self._endpoint.format(account=account).partition('://')[2]}/"

    def _blob(self, listing: Listing, entry: Entry) -> tuple[str, str]:
        """Return the entry's container and blob name."""
        where = self._where(_split(listing.ref)[1])
        container, _, prefix = listing.place.removeprefix(where).partition("/")
        return container, f"{prefix}/{entry.path}" if prefix else entry.path

    def _anonymous(self, ref: ModelRef, credentials: Credentials) -> bool:
        """Return True if no credentials are to be used: the caller has none, and may not use the daemon's, or
        AZURE_STORAGE_ANON is set among the daemon's own."""
        if credentials.personal(ref.scheme):
            return False
        return not credentials.lend or self._own.get("AZURE_STORAGE_ANON", "").lower() not in ("", "0", "f", "false")

    def _client(self, ref: ModelRef, credentials: Credentials) -> Connection:
        account = _split(ref)[1]
        personal = credentials.personal(ref.scheme)
        anonymous = self._anonymous(ref, credentials)
        key = account, None if anonymous else tuple(sorted(personal.items()))
        with self._lock:
            if key not in self._clients:
                with azure_errors(ref):
                    found = None if anonymous else login(ref, account, personal or self._own)
                    if found is None and not anonymous:
                        if personal:  # Never the daemon's own in their place: their access would be the caller's.
                            raise denied(ref, "your Azure variables hold no key, token or principal; check them")
                        found = default_login()
                    endpoint = self._endpoint.format(account=account)
                    self._clients[key] = Connection(endpoint, account, found, self._read_timeout)
                while len(self._clients) > CLIENTS:
                    self._clients.popitem(last=False)  # Not closed: a reader may still use it.
            self._clients.move_to_end(key)
            return self._clients[key]


class Connection(AzureBlobFileSystem):  # type: ignore[misc]  # adlfs ships no types.
    """An adlfs filesystem at one endpoint with exactly these credentials, whatever the environment has; uncached."""

    cachable = False

    def __init__(self, endpoint: str, account: str, credential: Any, timeout: float) -> None:
        self._client = functools.partial(
            BlobServiceClient,
            endpoint,
            credential=credential,
            retry_total=0,  # The caller retries, and knows for how long.
            connection_timeout=10,
            read_timeout=timeout,
            max_single_get_size=256 << 20,  # A range is one request.
            permit_redirects=False,  # Azure does not redirect, and the library would follow unchecked.
        )
        # With a connection string, which do_connect ignores, adlfs searches for no credentials of its own.
        super().__init__(account_name=account, connection_string="given", anon=True, use_listings_cache=False)

    def do_connect(self) -> None:
        self.service_client = self._client()

    def end(self) -> None:
        sync(self.loop, self.service_client.close)

    async def entries(self, container: str, prefix: str, timeout: float) -> list[Entry]:
        """Return every blob below `prefix/`; placeholders for folders are not files."""
        below = f"{prefix}/" if prefix else ""
        async with self.service_client.get_container_client(container) as client:
            blobs: list[Any] = []
            listed = client.list_blobs(name_starts_with=below, include=["metadata"], **patience(timeout))
            pages = listed.by_page()
            while True:
                budget.page()
                if (page := await anext(pages, None)) is None:
                    break
                blobs += [blob async for blob in page]
                budget.listed(len(blobs))
        if odd := next((blob.name for blob in blobs if not blob.name.startswith(below)), None):
            raise InvalidRequest(f"The source lists {odd[:120]!r}, which is not below the URI; nothing was fetched.")
        infos = await self._details(blobs)
        return [
            Entry(blob.name[len(below) :], int(info["size"]), info["etag"].strip('"'))
            for blob, info in zip(blobs, infos, strict=True)
            if info["type"] == "file" and not (info["size"] == 0 and blob.name.endswith("/"))
        ]

    async def entry(self, container: str, key: str, name: str, timeout: float) -> Entry | None:
        """Return the blob with this key, named `name`; None if there is none."""
        try:
            info = await self.properties(container, key, timeout)
        except FileNotFoundError:
            return None
        return Entry(name, int(info["size"]), info["etag"].strip('"')) if info["type"] == "file" else None

    async def properties(self, container: str, key: str, timeout: float) -> Any:
        """Return the properties of one blob, by a HEAD. Raise FileNotFoundError if it does not exist."""
        async with self.service_client.get_blob_client(container, key) as client:
            try:
                found = await client.get_blob_properties(**patience(timeout))
            except ResourceNotFoundError as error:
                raise FileNotFoundError(key) from error
        return (await self._details([found]))[0]


@functools.lru_cache(maxsize=64)
def _split(ref: ModelRef) -> tuple[str, str, str]:
    """Return container, account, and prefix without slashes at its ends. Raise InvalidRequest if the URI names no
    container of an account."""
    where, _, prefix = ref.place.partition("/")
    container, _, host = where.partition("@")
    account = _ACCOUNT.match(host)
    if not _CONTAINER.match(container) or not account:
        raise InvalidRequest(
            f"{spoken(ref)} names no container of an account; write "
            f"{ref.scheme}://container@account.dfs.core.windows.net/prefix."
        )
    return container, account[1], prefix.strip("/")
