"""A plain HTTP server of bytes in memory that can be told to break the rules."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import re
from collections.abc import Mapping
from urllib.parse import unquote

from tests.servers.stream import StreamServer

RULES = ("right", "ignore", "as-200", "shifted", "unnamed", "short", "gzip", "drip")


class Files(StreamServer):
    """`files` by path; `rule` says how ranges are answered:

    right     206, and 412 when If-Match does not match
    ignore    200 and the whole file          as-200    200 with a right Content-Range, If-Match ignored
    shifted   another range than asked for     unnamed   206 without Content-Range
    short     the connection ends early        gzip      compressed, unasked
    drip      one byte every tenth of a second

    `faults` are rules for the next requests of more than one byte, each used up by one; then `rule` holds again. Beside
    those above:

    reset     the connection is reset in the middle      stall     silence in the middle
    long      more bytes than were promised              closed    no length: the end of the connection is the end
    chunked   in chunks                                  cut       in chunks, the last one missing
    a number  that status, with `retry_after`            garbage   no HTTP at all

    `tags` switches ETags on and off, `dates` holds Last-Modified by path, `redirects` maps paths to URLs.
    `requests` lists (path, headers), `targets` what they asked for, query and all.
    """

    def __init__(self, files: Mapping[str, bytes] | None = None, host: str = "127.0.0.1") -> None:
        super().__init__(host)
        self.files = dict(files or {})
        self.rule = "right"
        self.faults: list[str] = []
        self.retry_after: str | None = None
        self.tags = True
        self.dates: dict[str, str] = {}
        self.redirects: dict[str, str] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.targets: list[str] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            path = unquote(head[0].split(" ")[1].partition("?")[0])
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            self.targets.append(head[0].split(" ")[1])
            self.requests.append((path, headers))
            self.seen()
            await self._answer(writer, path, headers)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def seen(self) -> None:
        """Called when a request has come, before it is answered."""

    async def _answer(self, writer: asyncio.StreamWriter, path: str, headers: Mapping[str, str]) -> None:
        if path in self.redirects:
            return _write(writer, 302, {"Location": self.redirects[path]}, b"")
        if path not in self.files:
            return _write(writer, 404, {}, b"")
        data = self.files[path]
        rule = self.faults.pop(0) if self.faults and headers.get("range") != "bytes=0-0" else self.rule
        if rule.isdigit():
            more = {"Retry-After": self.retry_after} if self.retry_after is not None else {}
            return _write(writer, int(rule), more, b"busy")
        said = {"ETag": f'"{hashlib.md5(data).hexdigest()}"'} if self.tags else {}
        if path in self.dates:
            said["Last-Modified"] = self.dates[path]
        if rule == "right" and headers.get("if-match", said.get("ETag")) != said.get("ETag"):
            return _write(writer, 412, {}, b"")
        match = re.match(r"bytes=(\d+)-(\d+)", headers.get("range", ""))
        if not match or rule == "ignore":
            return _write(writer, 200, said, data)
        start, end = int(match[1]), min(int(match[2]) + 1, len(data))
        if start >= len(data):
            return _write(writer, 416, {**said, "Content-Range": f"bytes */{len(data)}"}, b"")
        return await self._part(writer, data, start, end, said, rule)

    async def _part(
        self, writer: asyncio.StreamWriter, data: bytes, start: int, end: int, said: dict[str, str], rule: str
    ) -> None:
        body = data[start:end]
        if rule in _BREAKS:
            said["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
            return await _BREAKS[rule](writer, said, body)
        if rule == "shifted":
            start, end = start + 1, end + 1
        if rule != "unnamed":
            said["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        if rule == "gzip":
            said["Content-Encoding"] = "gzip"
            body = gzip.compress(body)[: len(body)]  # Only the header tells.
        if rule == "short":
            return _write(writer, 206, said, body[:-1], length=len(body))
        if rule == "drip" and len(body) > 1:
            _write(writer, 206, said, body[:1], length=len(body))
            for at in range(1, len(body)):
                await writer.drain()
                await asyncio.sleep(0.1)  # The fault itself.
                writer.write(body[at : at + 1])
            return None
        return _write(writer, 200 if rule == "as-200" else 206, said, body)


def _write(
    writer: asyncio.StreamWriter, status: int, headers: Mapping[str, str], body: bytes, length: int | None = None
) -> None:
    lines = [f"HTTP/1.1 {status} -", "Connection: close"]
    if length != -1:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)


async def _reset(writer: asyncio.StreamWriter, said: Mapping[str, str], body: bytes) -> None:
    _write(writer, 206, said, body[: len(body) // 2], length=len(body))
    await writer.drain()
    writer.transport.abort()


async def _stall(writer: asyncio.StreamWriter, said: Mapping[str, str], body: bytes) -> None:
    _write(writer, 206, said, body[: len(body) // 2], length=len(body))
    await writer.drain()
    await asyncio.sleep(30)  # The fault itself; whoever waits so long has no time-out.


async def _long(writer: asyncio.StreamWriter, said: Mapping[str, str], body: bytes) -> None:
    _write(writer, 206, said, body + b"more", length=len(body))


async def _closed(writer: asyncio.StreamWriter, said: Mapping[str, str], body: bytes) -> None:
    _write(writer, 206, said, body, length=-1)


async def _chunked(writer: asyncio.StreamWriter, said: Mapping[str, str], body: bytes) -> None:
    chunk = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    _write(writer, 206, {**said, "Transfer-Encoding": "chunked"}, chunk, length=-1)


async def _cut(writer: asyncio.StreamWriter, said: Mapping[str, str], body: bytes) -> None:
    chunk = f"{len(body):x}\r\n".encode() + body[: len(body) // 2]
    _write(writer, 206, {**said, "Transfer-Encoding": "chunked"}, chunk, length=-1)


async def _garbage(writer: asyncio.StreamWriter, said: Mapping[str, str], body: bytes) -> None:
    writer.write(b"\x16\x03\x01 this is not HTTP\r\n\r\n")


_BREAKS = {
    "reset": _reset,
    "stall": _stall,
    "long": _long,
    "closed": _closed,
    "chunked": _chunked,
    "cut": _cut,
    "garbage": _garbage,
}
FAULTS = ("ignore", "as-200", "shifted", "unnamed", "short", "gzip", "drip", *_BREAKS, "429", "500", "503")
