"""How an answer can be wrong: `ALTER` says other things than are true, `BREAK` breaks the connection's rules."""

from __future__ import annotations

import asyncio
import gzip
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

EVER = 1_000_000


@dataclass(frozen=True)
class Answer:
    """What a sound server would say. `stage` is what the request was for: list, probe, link, body or other."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | memoryview = b""
    stage: str = "other"
    start: int = 0  # Where the body begins in the whole file.
    whole: bytes = b""

    def saying(self, **headers: str | None) -> Answer:
        """With these headers (underscores for dashes); None leaves one out."""
        changed = {name.replace("_", "-"): value for name, value in headers.items()}
        kept = {name: value for name, value in self.headers.items() if name not in changed}
        return replace(self, headers={**kept, **{name: value for name, value in changed.items() if value is not None}})


@dataclass
class Fault:
    """Strikes the requests `at`, `at` + 1, … (`times` of them) of those for one of `stages`, at `server` or at both."""

    kind: str
    at: int = 1
    times: int = 1
    stages: tuple[str, ...] = ("body",)
    server: str = ""
    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"<Error/>"
    before: Callable[[], None] | None = None
    seen: int = 0
    struck: int = 0

    def strikes(self, stage: str, server: str) -> bool:
        if stage not in self.stages or self.server not in ("", server):
            return False
        self.seen += 1
        if not self.at <= self.seen < self.at + self.times:
            return False
        self.struck += 1
        return True


class Wire:
    """One connection to a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def head(self, answer: Answer, *lengths: int) -> None:
        lines = [f"HTTP/1.1 {answer.status} -"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        lines += [f"Content-Length: {length}" for length in lengths]
        await self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def send(self, data: bytes | memoryview) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def reset(self) -> None:
        """RST instead of FIN."""
        raw = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def until_it_leaves(self) -> None:
        while await self._reader.read(4096):
            pass

    @property
    def left(self) -> bool:
        return self._reader.at_eof() or self._writer.is_closing()


def _half(answer: Answer) -> memoryview:
    return memoryview(answer.body)[: len(answer.body) // 2]


async def _short(wire: Wire, answer: Answer) -> None:
    await wire.head(answer, len(answer.body))
    await wire.send(memoryview(answer.body)[:-7])


async def _cut(wire: Wire, answer: Answer) -> None:
    await wire.head(answer, len(answer.body))
    await wire.send(_half(answer))
    await wire.reset()


async def _chunked(wire: Wire, answer: Answer) -> None:
    await _chunks(wire, answer, memoryview(answer.body))
    await wire.send(b"0\r\n\r\n")


async def _chunked_cut(wire: Wire, answer: Answer) -> None:
    await _chunks(wire, answer, _half(answer))


async def _chunks(wire: Wire, answer: Answer, body: memoryview) -> None:
    await wire.head(answer.saying(Transfer_Encoding="chunked"))
    for at in range(0, len(body), 1 << 20):
        part = body[at : at + (1 << 20)]
        await wire.send(b"%x\r\n" % len(part) + part + b"\r\n")


async def _reset(wire: Wire, answer: Answer) -> None:
    await wire.reset()


async def _stall(wire: Wire, answer: Answer) -> None:
    await wire.head(answer, len(answer.body))
    await wire.send(_half(answer))
    await wire.until_it_leaves()


async def _silent(wire: Wire, answer: Answer) -> None:
    await wire.until_it_leaves()


async def _drip(wire: Wire, answer: Answer) -> None:
    await wire.head(answer, len(answer.body))
    for at in range(len(answer.body)):
        if wire.left:
            return
        await wire.send(answer.body[at : at + 1])
        await asyncio.sleep(0.05)  # The fault itself.


async def _drip_head(wire: Wire, answer: Answer) -> None:
    """A head that goes on and on, as does each of its lines."""
    await wire.send(b"HTTP/1.1 200 -\r\nX-Padding: ")
    while not wire.left:
        await wire.send(b"x")
        await asyncio.sleep(0.05)  # The fault itself.


async def _announced(wire: Wire, answer: Answer) -> None:
    """The answer is always about to come."""
    while not wire.left:
        await wire.send(b"HTTP/1.1 103 -\r\nLink: </x>\r\n\r\n")
        await asyncio.sleep(0.05)  # The fault itself.


async def _no_length(wire: Wire, answer: Answer) -> None:
    await wire.head(answer.saying(Connection="close"))
    await wire.send(answer.body)


async def _no_length_cut(wire: Wire, answer: Answer) -> None:
    await wire.head(answer.saying(Connection="close"))
    await wire.send(_half(answer))


async def _length_above(wire: Wire, answer: Answer) -> None:
    await wire.head(answer, len(answer.body) + 100)
    await wire.send(answer.body)


async def _length_below(wire: Wire, answer: Answer) -> None:
    await wire.head(answer, len(answer.body) - 100)
    await wire.send(answer.body)
    await wire.until_it_leaves()


async def _two_lengths(wire: Wire, answer: Answer) -> None:
    await wire.head(answer, len(answer.body), len(answer.body) - 1)
    await wire.send(answer.body)


async def _too_long(wire: Wire, answer: Answer) -> None:
    """The rest is what the next request on this connection would take for its answer."""
    await wire.head(answer, len(answer.body))
    await wire.send(bytes(answer.body) + b"HTTP/1.1 206 -\r\nContent-Length: 9\r\n\r\nsmuggled!")
    await wire.until_it_leaves()


async def _not_http(wire: Wire, answer: Answer) -> None:
    await wire.send(b"\x16\x03\x01 this is not HTTP\r\n\r\n")


BREAK: dict[str, Callable[[Wire, Answer], Awaitable[None]]] = {
    "short": _short,
    "cut": _cut,
    "chunked": _chunked,
    "chunked-cut": _chunked_cut,
    "reset": _reset,
    "stall": _stall,
    "silent": _silent,
    "drip": _drip,
    "drip-head": _drip_head,
    "announced": _announced,
    "no-length": _no_length,
    "no-length-cut": _no_length_cut,
    "length-above": _length_above,
    "length-below": _length_below,
    "two-lengths": _two_lengths,
    "too-long": _too_long,
    "not-http": _not_http,
}


def _status(answer: Answer, fault: Fault) -> Answer:
    return replace(answer, status=fault.status, headers=dict(fault.headers), body=fault.body)


def _ignored(answer: Answer, fault: Fault) -> Answer:
    return replace(answer, status=200, body=answer.whole).saying(Content_Range=None)


def _shifted(answer: Answer, fault: Fault) -> Answer:
    """Another range than asked for, and it says so."""
    start, end = answer.start + 1, answer.start + 1 + len(answer.body)
    body = answer.whole[start:end]
    said = f"bytes {start}-{start + len(body) - 1}/{len(answer.whole)}"
    return replace(answer, body=body).saying(Content_Range=said)


def _other_total(answer: Answer, fault: Fault) -> Answer:
    said = re.sub(r"/\d+", f"/{len(answer.whole) + 1}", answer.headers.get("Content-Range", ""))
    return answer.saying(Content_Range=said)


def _wide(answer: Answer, fault: Fault) -> Answer:
    """More than was asked for, and it says so."""
    start, end = max(0, answer.start - 9), answer.start + len(answer.body)
    return replace(answer, body=answer.whole[start:end]).saying(
        Content_Range=f"bytes {start}-{end - 1}/{len(answer.whole)}"
    )


def _multipart(answer: Answer, fault: Fault) -> Answer:
    body = b"--x\r\nContent-Range: %s\r\n\r\n%s\r\n--x--\r\n" % (
        answer.headers.get("Content-Range", "").encode(),
        bytes(answer.body),
    )
    return replace(answer, body=body).saying(Content_Range=None, Content_Type="multipart/byteranges; boundary=x")


def _wrong(answer: Answer, fault: Fault) -> Answer:
    """One bit, in the middle."""
    body = bytearray(answer.body)
    body[len(body) // 2] ^= 1
    return replace(answer, body=bytes(body))


def _swapped(answer: Answer, fault: Fault) -> Answer:
    """The bytes of another part of the file, as if they were the ones."""
    start = len(answer.whole) - len(answer.body) - answer.start
    return replace(answer, body=answer.whole[start : start + len(answer.body)])


def _hole(answer: Answer, fault: Fault) -> Answer:
    third = len(answer.body) // 3
    return replace(answer, body=bytes(answer.body[:third]) + bytes(third) + bytes(answer.body[2 * third :]))


ALTER: dict[str, Callable[[Answer, Fault], Answer]] = {
    "none": lambda answer, fault: answer,
    "status": _status,
    "headers": lambda answer, fault: replace(answer, headers={**answer.headers, **fault.headers}),
    "ignored": _ignored,
    "as-200": lambda answer, fault: replace(answer, status=200),
    "shifted": _shifted,
    "unnamed": lambda answer, fault: answer.saying(Content_Range=None),
    "other-total": _other_total,
    "wide": _wide,
    "multipart": _multipart,
    "gzip": lambda answer, fault: replace(answer, body=gzip.compress(answer.body, 1)).saying(Content_Encoding="gzip"),
    "wrong": _wrong,
    "swapped": _swapped,
    "hole": _hole,
}
