"""One origin that speaks S3, the Hub and plain HTTP of the same files, and misbehaves exactly as it is told.

with FaultOrigin() as origin:
    origin.put("llama", {"config.json": b"{}"})
    origin.fail("cut", at=2)             # The second body from now on; every other answer is sound.
    origin.uri("s3", "llama", "config.json"), origin.seen("body"), origin.requests
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

from tests.servers import fault_answers as sound
from tests.servers.fault_answers import Asked, Model
from tests.servers.fault_kinds import ALTER, BREAK, Answer, Fault, Wire
from tests.servers.hub_state import Seen
from tests.servers.loop import LoopServer

BUCKET = "bucket"


class FaultOrigin(LoopServer):
    """Listens at `endpoint` (127.0.0.1) and, as another host, at `cdn` (127.0.0.2).

    put(model, files, claims)   claims: sizes to announce instead of the true ones
    fail(kind, at, times, …)    see fault_kinds for the kinds; heal() forgets them all
    expire_links()              signed links given out so far are refused with 403
    careless = True             If-Match is not looked at
    cut() / restore()           refuse connections
    """

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, Model] = {}
        self.requests: list[Seen] = []
        self.stages: list[str] = []  # Of each request, in the same order.
        self.careless = False
        self._faults: list[Fault] = []
        self._signature = 0
        self._lock = threading.Lock()
        self._ports = [0, 0]
        self._servers: list[asyncio.Server] = []
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def cdn(self) -> str:
        return f"http://127.0.0.2:{self._ports[1]}"

    def put(self, model: str, files: Mapping[str, bytes], claims: Mapping[str, int] | None = None) -> None:
        self.models[model] = Model(dict(files), dict(claims or {}))

    def uri(self, protocol: str, model: str, path: str) -> str:
        """How a caller names the model; plain HTTP knows single files only."""
        if protocol == "http":
            return f"{self.endpoint}/files/{model}/{path}"
        return f"s3://{BUCKET}/{model}" if protocol == "s3" else f"hf://org/{model}"

    def fail(self, kind: str, **how: Any) -> Fault:
        if kind not in BREAK and kind not in ALTER:
            raise ValueError(kind)
        fault = Fault(kind, **how)
        with self._lock:
            self._faults.append(fault)
        return fault

    def heal(self) -> None:
        with self._lock:
            self._faults.clear()
        self.careless = False

    def expire_links(self) -> None:
        self._signature += 1

    def seen(self, stage: str) -> int:
        return self.stages.count(stage)

    def cut(self) -> None:
        self.run(self.shut())

    def restore(self) -> None:
        self.run(self.open())

    def cut_for(self, seconds: float) -> None:
        """Refuse connections for a while; on the loop's own thread, as faults run there."""
        self._refuse()
        self.loop.call_later(seconds, lambda: self.loop.create_task(self.open()))

    async def open(self) -> None:
        for index, host in enumerate(("127.0.0.1", "127.0.0.2")):
            name = ("origin", "cdn")[index]

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str = name) -> None:
                await self._serve(reader, writer, name)

            server = await asyncio.start_server(serve, host, self._ports[index], reuse_address=True)
            self._ports[index] = server.sockets[0].getsockname()[1]
            self._servers.append(server)

    async def shut(self) -> None:
        self._refuse()

    def _refuse(self) -> None:
        """Kept connections end as well: else they would still be served."""
        while self._servers:
            self._servers.pop().close()
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: str) -> None:
        """One connection: sound answers keep it, faults that break its rules end it."""
        wire = Wire(reader, writer)
        self._open.add(writer)
        try:
            while True:
                raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                if not await self._exchange(wire, raw, server):
                    return
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _exchange(self, wire: Wire, raw: list[str], server: str) -> bool:
        method, target, _ = raw[0].split(" ")
        path, _, query = target.partition("?")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in raw[1:])}
        asked = Asked(method, unquote(path), dict(parse_qsl(query)), headers)
        answer, fault = self._judge(asked, target, server)
        if fault is not None and fault.kind in BREAK:
            await BREAK[fault.kind](wire, answer)
            return False
        if fault is not None:
            answer = ALTER[fault.kind](answer, fault)
        named = "Content-Length" in answer.headers  # Of a HEAD: that of the body which is not sent.
        await wire.head(answer, *([] if named else [len(answer.body)]))
        if method != "HEAD":
            await wire.send(answer.body)
        return True

    def _judge(self, asked: Asked, target: str, server: str) -> tuple[Answer, Fault | None]:
        answer = self._sound(asked, server)
        with self._lock:
            self.requests.append(Seen(asked.method, target, server, asked.headers))
            self.stages.append(answer.stage)
            fault = next((fault for fault in self._faults if fault.strikes(answer.stage, server)), None)
        if fault is not None and fault.before is not None:
            fault.before()
            answer = self._sound(asked, server)
        return answer, fault

    def _sound(self, asked: Asked, server: str) -> Answer:
        models, match = self.models, not self.careless
        if asked.path.startswith("/cdn/") and server == "cdn":
            return sound.cdn_file(asked, models, f"s{self._signature}")
        if asked.path.startswith("/api/models/"):
            return sound.hub_api(asked, models, self.endpoint)
        if asked.path.startswith("/org/"):
            return sound.hub_file(asked, models, f"{self.cdn}/cdn/{{}}?Signature=s{self._signature}")
        if asked.path.startswith("/files/"):
            return sound.plain(asked, models, match=match)
        return sound.s3(asked, models, match=match)
