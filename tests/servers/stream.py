"""A server on a loop that is given each connection as a reader and a writer."""

from __future__ import annotations

import asyncio
import contextlib

from tests.servers.loop import LoopServer


class StreamServer(LoopServer):
    """Listens on a free port of `host`, and on the same one when it is opened again."""

    LIMIT = 1 << 16  # Bytes of a line.

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__()
        self.host, self.port = host, 0
        self._server: asyncio.Server | None = None

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def open(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._meet, self.host, self.port, limit=self.LIMIT)
            self.port = self._server.sockets[0].getsockname()[1]

    async def shut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Python 3.11 complains of connections that are cancelled, as `_settle` does."""
        with contextlib.suppress(asyncio.CancelledError):
            await self._serve(reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        raise NotImplementedError
