"""A plain HTTP server of bytes in memory that can be told to break the rules."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import re
from collections.abc import Mapping
from urllib.parse import unquote

from tests.servers.loop import LoopServer

RULES = ("right", "ignore", "as-200", "shifted", "unnamed", "short", "gzip", "drip")


class Files(LoopServer):
    """`files` by path; `rule` says how ranges are answered:

    right     206, and 412 when If-Match does not match
    ignore    200 and the whole file          as-200    200 with a right Content-Range, If-Match ignored
    shifted   another range than asked for     unnamed   206 without Content-Range
    short     the connection ends early        gzip      compressed, unasked
    drip      one byte every tenth of a second

    `tags` switches ETags on and off, `dates` holds Last-Modified by path, `redirects` maps paths to URLs.
    `requests` lists (path, headers).
    """

    def __init__(self, files: Mapping[str, bytes] | None = None) -> None:
        super().__init__()
        self.files = dict(files or {})
        self.rule = "right"
        self.tags = True
        self.dates: dict[str, str] = {}
        self.redirects: dict[str, str] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.port = 0
        self._server: asyncio.Server | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def shut(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            path = unquote(head[0].split(" ")[1].partition("?")[0])
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            self.requests.append((path, headers))
            await self._answer(writer, path, headers)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, path: str, headers: Mapping[str, str]) -> None:
        if path in self.redirects:
            return _write(writer, 302, {"Location": self.redirects[path]}, b"")
        if path not in self.files:
            return _write(writer, 404, {}, b"")
        data = self.files[path]
        said = {"ETag": f'"{hashlib.md5(data).hexdigest()}"'} if self.tags else {}
        if path in self.dates:
            said["Last-Modified"] = self.dates[path]
        if self.rule == "right" and headers.get("if-match", said.get("ETag")) != said.get("ETag"):
            return _write(writer, 412, {}, b"")
        match = re.match(r"bytes=(\d+)-(\d+)", headers.get("range", ""))
        if not match or self.rule == "ignore":
            return _write(writer, 200, said, data)
        start, end = int(match[1]), min(int(match[2]) + 1, len(data))
        if start >= len(data):
            return _write(writer, 416, {**said, "Content-Range": f"bytes */{len(data)}"}, b"")
        return await self._part(writer, data, start, end, said)

    async def _part(
        self, writer: asyncio.StreamWriter, data: bytes, start: int, end: int, said: dict[str, str]
    ) -> None:
        body = data[start:end]
        if self.rule == "shifted":
            start, end = start + 1, end + 1
        if self.rule != "unnamed":
            said["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        if self.rule == "gzip":
            said["Content-Encoding"] = "gzip"
            body = gzip.compress(body)[: len(body)]  # Only the header tells.
        if self.rule == "short":
            return _write(writer, 206, said, body[:-1], length=len(body))
        if self.rule == "drip" and len(body) > 1:
            _write(writer, 206, said, body[:1], length=len(body))
            for at in range(1, len(body)):
                await writer.drain()
                await asyncio.sleep(0.1)  # The fault itself.
                writer.write(body[at : at + 1])
            return None
        return _write(writer, 200 if self.rule == "as-200" else 206, said, body)


def _write(
    writer: asyncio.StreamWriter, status: int, headers: Mapping[str, str], body: bytes, length: int | None = None
) -> None:
    lines = [f"HTTP/1.1 {status} -", f"Content-Length: {len(body) if length is None else length}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
