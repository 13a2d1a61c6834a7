"""A server in front of another: it answers some requests itself, and hands the others on."""

from __future__ import annotations

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from tests.servers.loop import LoopServer

_HOP = ("host", "connection", "transfer-encoding", "content-length")


class Front(LoopServer):
    """`upstream` is the endpoint of the server behind."""

    def __init__(self, upstream: str) -> None:
        super().__init__()
        self._upstream = upstream
        self._port = 0
        self._runner: web.AppRunner | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def routes(self) -> list[web.RouteDef]:
        """What is answered here."""
        raise NotImplementedError

    async def meet(self, request: web.Request) -> web.StreamResponse:
        """Every other request: `forward` it, or refuse it."""
        raise NotImplementedError

    async def open(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.add_routes([*self.routes(), web.route("*", "/{rest:.*}", self.meet)])
        self._session = aiohttp.ClientSession(auto_decompress=False)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]

    async def shut(self) -> None:
        await self._session.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def forward(self, request: web.Request, path: str = "") -> web.Response:
        """The answer of the server behind, to the same request, or to that for another path (and query)."""
        kept = [(name, value) for name, value in request.headers.items() if name.lower() not in _HOP]
        url = URL(self._upstream + (path or request.raw_path), encoded=True)
        body = await request.read()
        async with self._session.request(request.method, url, headers=CIMultiDict(kept), data=body) as answer:
            back = [(name, value) for name, value in answer.headers.items() if name.lower() not in _HOP]
            if request.method == "HEAD":  # The length is that of the body that a GET would have.
                length = [
                    ("Content-Length", answer.headers[name]) for name in answer.headers if name == "Content-Length"
                ]
                return web.Response(status=answer.status, headers=CIMultiDict(back + length))
            return web.Response(status=answer.status, body=await answer.read(), headers=CIMultiDict(back))
