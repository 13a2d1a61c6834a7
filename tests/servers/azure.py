"""Azure Blob Storage: Azurite where it is installed, and a server of our own that Azure's own client accepts.

with AzureStub() as azure: azure.put("container", "llama/config.json", b"{}"); azure.endpoint, azure.credentials

Requests must carry the account's key (SharedKey, checked), the token of `sas`, or ask for a container that is public.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import itertools
import os
import re
import shutil
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any
from xml.sax.saxutils import escape

from aiohttp import web

from tests.servers.loop import LoopServer
from tests.servers.process import ServerProcess

# The account that every installation of Azurite has, with its published key.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
PAGE = 3  # Few, so that every listing has pages.


class AzureServer:
    """What both servers have in common: an account, and blobs put through Azure's own client."""

    account = ACCOUNT
    key = KEY
    endpoint: str

    @property
    def credentials(self) -> dict[str, str]:
        """The variables that give a client access."""
        return {"AZURE_STORAGE_ACCOUNT_NAME": self.account, "AZURE_STORAGE_ACCOUNT_KEY": self.key}

    @functools.cached_property
    def client(self) -> Any:
        from azure.storage.blob import BlobServiceClient

        return BlobServiceClient(f"{self.endpoint}/{self.account}", credential=self.key, retry_total=0)

    def bucket(self, name: str, *, public: bool = False) -> str:
        """Make the container, unless it is there already."""
        container = self.client.get_container_client(name)
        if not container.exists():
            container.create_container(public_access="container" if public else None)
        return name

    def put(self, container: str, key: str, data: bytes, **more: Any) -> None:
        self.bucket(container)
        self.client.get_blob_client(container, key).upload_blob(data, overwrite=True, **more)

    def delete(self, container: str, key: str) -> None:
        self.client.get_blob_client(container, key).delete_blob()


class Azurite(AzureServer, ServerProcess):
    """Microsoft's emulator, from npm."""

    PROGRAM = shutil.which("azurite-blob")

    def command(self) -> list[str]:
        flags = ["--inMemoryPersistence", "--skipApiVersionCheck", "--silent", "--disableTelemetry"]
        return [str(self.PROGRAM), "--blobHost", "127.0.0.1", "--blobPort", str(self.port), *flags]


@dataclass
class _Blob:
    data: bytes
    etag: str
    meta: dict[str, str]
    modified: str = field(default_factory=lambda: formatdate(usegmt=True))

    @property
    def headers(self) -> dict[str, str]:
        named = {f"x-ms-meta-{name}": value for name, value in self.meta.items()}
        kind = {"x-ms-blob-type": "BlockBlob", "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        return {"ETag": f'"{self.etag}"', "Last-Modified": self.modified, **kind, **named}


@dataclass
class _Container:
    public: bool
    blobs: dict[str, _Blob] = field(default_factory=dict)


class AzureStub(AzureServer, LoopServer):
    """https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api, as far as models need it.

    requests    method, path and what was shown (SharedKey, sas or nothing), of every request
    sas         the one token that is accepted beside the key …
    lister      … and one that shows lists and properties, and no bytes: in accounts with a hierarchical namespace
                "Get Properties" wants no right to the file itself
                (https://learn.microsoft.com/azure/storage/blobs/data-lake-storage-access-control)
    """

    def __init__(self) -> None:
        super().__init__()
        self.port = 0
        self.sas = "sv=2024-01-01&sig=" + base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")
        self.lister = "sv=2024-01-01&sig=" + base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")
        self.requests: list[tuple[str, str, str]] = []
        self._containers: dict[str, _Container] = {}
        self._tags = itertools.count(0x8D0000000000000)
        self._runner: web.AppRunner | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{account}/{container}", self._on_container)
        app.router.add_route("*", "/{account}/{container}/{blob:.+}", self._on_blob)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def shut(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def _refusal(self, request: web.Request) -> web.Response | None:
        shown = request.headers.get("Authorization", "")
        how = shown.partition(" ")[0] or ("sas" if "sig" in request.query else "")
        self.requests.append((request.method, request.path, how))
        container = self._containers.get(request.match_info["container"])
        if request.match_info["account"] != ACCOUNT:
            return _error(404, "ResourceNotFound")
        if shown:
            right = hmac.compare_digest(shown, f"SharedKey {ACCOUNT}:{_signature(request)}")
            return None if right else _error(403, "AuthenticationFailed")
        if "sig" in request.query:
            if request.query["sig"] == self.lister.partition("sig=")[2]:
                bytes_wanted = "blob" in request.match_info and request.method != "HEAD"
                return _error(403, "AuthorizationPermissionMismatch") if bytes_wanted else None
            right = request.query["sig"] == self.sas.partition("sig=")[2]
            return None if right else _error(403, "AuthenticationFailed")
        return None if container and container.public else _error(401, "NoAuthenticationInformation")

    async def _on_container(self, request: web.Request) -> web.Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        name = request.match_info["container"]
        if request.method == "PUT":
            self._containers[name] = _Container("x-ms-blob-public-access" in request.headers)
            return web.Response(status=201)
        if name not in self._containers:
            return _error(404, "ContainerNotFound")
        if request.query.get("comp") != "list":
            return web.Response(headers={"ETag": '"0x1"', "Last-Modified": formatdate(usegmt=True)})
        return self._listing(request, self._containers[name])

    def _listing(self, request: web.Request, container: _Container) -> web.Response:
        prefix, marker = request.query.get("prefix", ""), request.query.get("marker", "")
        names = sorted(name for name in container.blobs if name.startswith(prefix) and name >= marker)
        page, rest = names[:PAGE], names[PAGE:]
        items = "".join(_item(name, container.blobs[name]) for name in page)
        # Azure's client asks for the next page with the prefix that stands in this one.
        after = f"<NextMarker>{escape(rest[0]) if rest else ''}</NextMarker>"
        body = f"<Prefix>{escape(prefix)}</Prefix><Blobs>{items}</Blobs>{after}"
        text = f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults>{body}</EnumerationResults>'
        return web.Response(body=text.encode(), content_type="application/xml")

    async def _on_blob(self, request: web.Request) -> web.StreamResponse:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        container = self._containers.get(request.match_info["container"])
        if container is None:
            return _error(404, "ContainerNotFound")
        name = request.match_info["blob"]
        if request.method == "PUT":
            meta = {n[10:]: value for n, value in request.headers.items() if n.lower().startswith("x-ms-meta-")}
            container.blobs[name] = _Blob(await request.read(), f"0x{next(self._tags):X}", meta)
            return web.Response(status=201, headers=container.blobs[name].headers)
        if name not in container.blobs:
            return _error(404, "BlobNotFound")
        if request.method == "DELETE":
            del container.blobs[name]
            return web.Response(status=202)
        return _answer(request, container.blobs[name])


def _answer(request: web.Request, blob: _Blob) -> web.Response:
    if request.headers.get("If-Match", f'"{blob.etag}"') != f'"{blob.etag}"':
        return _error(412, "ConditionNotMet")
    asked = re.match(r"bytes=(\d+)-(\d+)\Z", request.headers.get("x-ms-range", request.headers.get("Range", "")))
    if request.method == "HEAD" or not asked:
        return web.Response(body=blob.data, headers=blob.headers)
    first, last = int(asked[1]), min(int(asked[2]), len(blob.data) - 1)
    if first > last:
        return _error(416, "InvalidRange")
    headers = {**blob.headers, "Content-Range": f"bytes {first}-{last}/{len(blob.data)}"}
    return web.Response(status=206, body=blob.data[first : last + 1], headers=headers)


def _item(name: str, blob: _Blob) -> str:
    meta = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in blob.meta.items())
    about = f"<Last-Modified>{blob.modified}</Last-Modified><Etag>{blob.etag}</Etag>"
    about += f"<Content-Length>{len(blob.data)}</Content-Length><BlobType>BlockBlob</BlobType>"
    written = f"<Name>{escape(name)}</Name><Properties>{about}</Properties><Metadata>{meta}</Metadata>"
    return f"<Blob>{written}</Blob>"


def _error(status: int, code: str) -> web.Response:
    body = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
    headers = {"x-ms-error-code": code}
    return web.Response(status=status, body=body.encode(), content_type="application/xml", headers=headers)


def _signature(request: web.Request) -> str:
    """https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key"""
    names = ("Content-Encoding", "Content-Language", "Content-Length", "Content-MD5", "Content-Type", "Date")
    conditions = ("If-Modified-Since", "If-Match", "If-None-Match", "If-Unmodified-Since", "Range")
    values = [request.headers.get(name, "") for name in names]
    values[2] = "" if values[2] == "0" else values[2]
    values[5] = "" if "x-ms-date" in request.headers else values[5]
    values += [request.headers.get(name, "") for name in conditions]
    own = sorted((name.lower(), value) for name, value in request.headers.items() if name.lower().startswith("x-ms-"))
    lines = [request.method, *values, *(f"{name}:{value}" for name, value in own)]
    resource = f"/{ACCOUNT}{request.rel_url.raw_path}"
    query = sorted((name.lower(), value) for name, value in request.query.items())
    text = "\n".join([*lines, resource]) + "".join(f"\n{name}:{value}" for name, value in query)
    return base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()
