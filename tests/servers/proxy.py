"""A TCP proxy that counts what the server behind it sends, and that can be cut."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from tests.servers.stream import StreamServer

CHUNK = 1 << 18


class CountingProxy(StreamServer):
    """In front of `upstream` (`http://host:port`); clients use `endpoint`.

    bytes_down    bytes that came from the server, headers included
    bytes_up      bytes that clients sent
    connections   how many were accepted
    cut()         end every connection and refuse new ones, until restore(), which listens on the same port
    cut_after(n)  cut by itself once n more bytes have come down
    """

    def __init__(self, upstream: str) -> None:
        super().__init__()
        parts = urlsplit(upstream)
        self._upstream = parts.hostname or "127.0.0.1", parts.port or 80
        self.bytes_down = self.bytes_up = self.connections = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._left: int | None = None

    def reset(self) -> None:
        """Count from zero again."""
        self.bytes_down = self.bytes_up = self.connections = 0

    def cut(self) -> None:
        self.run(self.shut())

    def cut_after(self, count: int) -> None:
        self._left = count

    def restore(self) -> None:
        self._left = None
        self.run(self.open())

    async def shut(self) -> None:
        await super().shut()
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            writer.transport.abort()
            self._open.discard(writer)
            return
        self._open.add(up_writer)
        try:
            await asyncio.gather(self._pump(reader, up_writer, down=False), self._pump(up_reader, writer, down=True))
        finally:
            for end in (writer, up_writer):
                end.transport.abort()
                self._open.discard(end)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, down: bool) -> None:
        try:
            while data := await reader.read(CHUNK):
                if down:
                    data = await self._count_down(data)
                else:
                    self.bytes_up += len(data)
                writer.write(data)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
        except OSError:
            writer.transport.abort()

    async def _count_down(self, data: bytes) -> bytes:
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
            if not data:
                await self.shut()
                raise ConnectionResetError
        self.bytes_down += len(data)
        return data
