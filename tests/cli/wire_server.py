"""A server on a unix socket that speaks the daemon's wire with answers that a test chooses.

The daemon's own tests and test_with_daemon.py show that the real one answers so; here it is about what the command
makes of an answer, including those that a healthy daemon gives rarely.
"""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from cached.errors import CachedError
from cached.model import Progress
from cached.wire import API, Ready, encode, error_body, progress_line, ready_line

DIGEST = "sha256:" + "3f" * 32


class WireServer:
    """`answers` maps `"GET /v1/status"` to an object, an error, or a list of NDJSON lines; `requests` is what came."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "s.sock"
        self.snapshot = folder / "snapshots" / ("3f" * 32)
        self.snapshot.mkdir(parents=True)
        self.lock = self.snapshot.with_suffix(".json")
        self.lock.write_text("{}")
        self.answers: dict[str, Any] = {}
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.asked = threading.Event()  # Set by each request.
        self.go_on = threading.Event()  # An acquire that ends in "wait" waits for it.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()

    def ready(self, **changes: Any) -> Ready:
        values: dict[str, Any] = {
            "path": str(self.snapshot),
            "lock": str(self.lock),
            "digest": DIGEST,
            "revision": "a" * 40,
            "source": "hf://org/name",
            "size": 4096,
            "hit": False,
            "stale": False,
        }
        return Ready(**{**values, **changes})

    def acquire(self, *lines: Progress | Ready | CachedError | dict[str, Any] | str) -> None:
        self.answers["POST /v1/acquire"] = list(lines)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.UnixSite(runner, str(self.socket)).start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        what = f"{request.method} {request.raw_path.partition('?')[0]}"
        fields = json.loads(body) if body else {name: int(value) for name, value in request.query.items()}
        assert fields.pop("api") == API, "every request says what its client speaks"
        self.requests.append((what, fields))
        self.asked.set()
        answer = self.answers.get(what)
        if isinstance(answer, list):
            return await self._stream(request, answer)
        if isinstance(answer, CachedError):
            return web.json_response({**error_body(answer), "api": API}, status=answer.status)
        if answer is None:
            return web.json_response({"code": "not_found", "message": f"No {what} here."}, status=404)
        return web.json_response({"api": API, **answer})

    async def _stream(self, request: web.Request, lines: list[Any]) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for line in lines:
            if line == "wait":
                await asyncio.to_thread(self.go_on.wait, 30)
            else:
                await response.write(_encode(line))
        await response.write_eof()
        return response


def _encode(line: Progress | Ready | CachedError | dict[str, Any]) -> bytes:
    if isinstance(line, dict):
        return encode(line)
    if isinstance(line, Progress):
        return progress_line(line)
    if isinstance(line, Ready):
        return ready_line(line)
    return json.dumps(error_body(line)).encode() + b"\n"
