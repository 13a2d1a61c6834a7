"""The JSON that crosses the socket, shared by the API and the client. Standard library only.

An acquire answers with NDJSON: any number of `progress` lines, then one `ready` or one `error`. A hit is one line.
Every other verb answers with one object; a failure is `{"event": "error", …}` with the error's HTTP status.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cached.errors import CachedError, from_code
from cached.model import Progress

# A caller's own variables that an acquire carries. Nothing that chooses content (an endpoint, say) is among them.
FORWARDED = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "GOOGLE_APPLICATION_CREDENTIALS_JSON",  # The text of the file that GOOGLE_APPLICATION_CREDENTIALS names.
)
MAX_REQUEST_BYTES = 64 << 10  # Read as JSON between two hits, so in less than a millisecond.


@dataclass(frozen=True, slots=True)
class Ready:
    """What a caller is given. `path` is the snapshot's directory; `lock` is the file to flock and keep."""

    path: str
    lock: str
    digest: str
    revision: str
    source: str
    size: int
    hit: bool
    stale: bool


def encode(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def progress_line(progress: Progress) -> bytes:
    return encode({"event": "progress", **asdict(progress)})


def ready_line(ready: Ready) -> bytes:
    return encode({"event": "ready", **asdict(ready)})


def error_body(error: CachedError) -> dict[str, Any]:
    return {"event": "error", "code": error.code, "message": error.message, "retryable": error.retryable}


def parse_progress(line: Mapping[str, Any]) -> Progress:
    return Progress(**{name: line[name] for name in Progress.__slots__ if name in line})


def parse_ready(line: Mapping[str, Any]) -> Ready:
    return Ready(**{name: line[name] for name in Ready.__slots__})


def parse_error(line: Mapping[str, Any]) -> CachedError:
    return from_code(str(line.get("code", "")), str(line.get("message", "The daemon gave no reason.")))
