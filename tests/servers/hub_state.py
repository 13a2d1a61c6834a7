"""What the Hub stub keeps: repositories, their commits, the requests that came, the failures to come."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import web

LARGE = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".msgpack")  # Kept as LFS whatever their size …
LARGE_BYTES = 10 << 20  # … and everything else above this.
FREE = ("README.md", ".gitattributes")  # Of a gated repository everybody's all the same.


@dataclass(frozen=True)
class Seen:
    """One request, as it came in."""

    method: str
    path: str
    server: str  # "hub" or "cdn".
    headers: Mapping[str, str]


@dataclass
class Repository:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)  # Branches and tags.
    pointers: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)  # By commit and path; sha256, size.
    gated: bool = False
    private: bool = False
    readers: frozenset[str] = frozenset()  # Tokens that have access when it is gated or private.


@dataclass
class Failure:
    part: str
    left: int
    status: int
    headers: Mapping[str, str]


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_large(path: str, data: bytes) -> bool:
    return path.endswith(LARGE) or len(data) > LARGE_BYTES


def refusal(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    named = {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})}
    return web.json_response({"error": message}, status=status, headers=named)
