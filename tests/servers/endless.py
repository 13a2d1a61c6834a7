"""Places without end: the Hub, S3, GCS and Azure, whose listings have another page after each.

Nothing in those protocols bounds them; a bucket of a billion objects is listed like this too.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable

from aiohttp import web

from tests.servers.loop import LoopServer

COMMIT = "c" * 40
FINITE = "finite"  # What has this in its name has one page, of config.json.
_S3 = "http://s3.amazonaws.com/doc/2006-03-01/"


class EndlessServer(LoopServer):
    """`pages` counts what was asked for; `per_page` is how many files each names; `on_page(n)` is called before page n
    (from 1) is answered; `hold()` keeps all pages from being answered until `release()`."""

    def __init__(self, per_page: int = 100) -> None:
        super().__init__()
        self.per_page = per_page
        self.pages = 0
        self.on_page: Callable[[int], None] = lambda page: None
        self.port = 0
        self._running = asyncio.Event()
        self._running.set()
        self._lock = threading.Lock()
        self._runner: web.AppRunner | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def hold(self) -> None:
        self.loop.call_soon_threadsafe(self._running.clear)

    def release(self) -> None:
        self.loop.call_soon_threadsafe(self._running.set)

    async def open(self) -> None:
        app = web.Application()
        app.router.add_get("/api/models/{org}/{name}/revision/{revision}", self._commit)
        app.router.add_get("/api/models/{org}/{name}/tree/{commit}", self._tree)
        app.router.add_get("/storage/v1/b/{bucket}/o", self._gcs)
        app.router.add_get("/{account}/{container}", self._azure)
        app.router.add_get("/{bucket}", self._s3)
        app.router.add_get("/{bucket}/", self._s3)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def shut(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _page(self, place: str) -> list[str]:
        """The names of the next page, once it may be told."""
        if FINITE in place:
            return ["config.json"]
        with self._lock:
            self.pages += 1
            page = self.pages
        self.on_page(page)
        await self._running.wait()
        return [f"f{page}-{number}.json" for number in range(self.per_page)]

    async def _commit(self, request: web.Request) -> web.Response:
        return web.json_response({"sha": COMMIT, "gated": False, "private": False})

    async def _tree(self, request: web.Request) -> web.Response:
        names = await self._page(request.match_info["name"])
        more = {"Link": f'<{self.endpoint}{request.path}?cursor={self.pages}>; rel="next"'}
        files = [{"type": "file", "path": name, "size": 2, "oid": "0" * 40} for name in names]
        return web.json_response(files, headers={} if FINITE in request.path else more)

    async def _gcs(self, request: web.Request) -> web.Response:
        below = request.query["prefix"]
        items = [{"name": below + name, "size": "2", "generation": "1"} for name in await self._page(request.path)]
        more = {} if FINITE in request.path else {"nextPageToken": str(self.pages)}
        return web.Response(text=json.dumps({"items": items, **more}), content_type="application/json")

    async def _s3(self, request: web.Request) -> web.Response:
        below = request.query.get("prefix", "")
        fields = "<Size>2</Size><ETag>&quot;e&quot;</ETag><LastModified>2020-01-01T00:00:00.000Z</LastModified>"
        items = [f"<Contents><Key>{below}{name}</Key>{fields}</Contents>" for name in await self._page(below)]
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{self.pages}</NextContinuationToken>"
        body = f'<ListBucketResult xmlns="{_S3}">{"".join(items)}{"" if FINITE in below else more}</ListBucketResult>'
        return web.Response(text=body, content_type="application/xml")

    async def _azure(self, request: web.Request) -> web.Response:
        below = request.query.get("prefix", "")
        properties = (
            "<Properties><Content-Length>2</Content-Length><Etag>0x1</Etag><BlobType>BlockBlob</BlobType>"
            "<Last-Modified>Wed, 01 Jan 2020 00:00:00 GMT</Last-Modified></Properties>"
        )
        blobs = [f"<Blob><Name>{below}{name}</Name>{properties}</Blob>" for name in await self._page(below)]
        body = (
            f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs>{"".join(blobs)}</Blobs>'
            f"<NextMarker>{self.pages}</NextMarker></EnumerationResults>"
        )
        return web.Response(text=body, content_type="application/xml")
