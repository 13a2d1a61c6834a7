"""Answers as JSON. A long answer is encoded part by part in a thread: encoded in one go it would keep every hit
waiting."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web

from cached.daemon.runtime.threads import Threads
from cached.errors import CachedError
from cached.wire import API, error_body, reply

log = logging.getLogger("cached.api")

LONG = 100  # Items of a list.
AT_ONCE = 16  # Items encoded in one go, which takes some tens of microseconds.

_json = json.JSONEncoder(separators=(",", ":")).encode


def answer(body: Mapping[str, Any], status: int = 200) -> web.Response:
    """Return a short answer, encoded at once."""
    return web.Response(body=reply(body), status=status, content_type="application/json")


async def long_answer(body: Mapping[str, Any], threads: Threads) -> web.Response:
    if not any(isinstance(value, list) and len(value) > LONG for value in body.values()):
        return answer(body)
    return web.Response(body=await threads.disk(written, body), content_type="application/json")


def unforeseen(verb: str, error: Exception) -> dict[str, Any]:
    """Log a bug, and return the body of the answer that the caller receives."""
    log.error("api.bug", exc_info=error, extra={"verb": verb})
    return error_body(CachedError("The daemon failed in a way nobody foresaw; see its log."))


def written(body: Mapping[str, Any]) -> bytes:
    """Return the bytes that `reply` returns, encoded part by part."""
    return b"{" + b",".join(_fields({**body, "api": API})) + b"}\n"


def _fields(body: Mapping[str, Any]) -> Iterator[bytes]:
    for name, value in body.items():
        text = f"[{','.join(_parts(value))}]" if isinstance(value, list) else _json(value)
        yield f"{_json(name)}:{text}".encode()


def _parts(items: list[Any]) -> Iterator[str]:
    for start in range(0, len(items), AT_ONCE):
        yield _json(items[start : start + AT_ONCE])[1:-1]
