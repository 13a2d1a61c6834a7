"""The JSON that crosses the socket, shared by the API and the client. Standard library only.

An acquire is answered with NDJSON: any number of `progress` lines, then one `ready` or one `error`. A hit is one line.
Every other verb is answered with one object; a failure is `{"event": "error", …}` with the error's HTTP status.

The client and the daemon differ in version: clients live in images, daemons on nodes. So requests and replies carry
`api` (absent: 1). A field that a reply lacks has a default here, unknown fields are ignored, and an unknown kind of
error becomes the class of its HTTP status. Unknown fields at the top of a request are ignored too; fields that must be
understood stand under `must`, and a daemon that does not know a name there refuses the request. A request of API 1 is
answered with those three events only: its clients take any other event for the last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from cached.errors import CachedError, VersionMismatch, from_code
from cached.model import Progress

API = 2  # The version spoken here. 1 had neither `api` nor `must`.

# A caller's own variables that an acquire carries. None of them selects content, as an endpoint would.
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
MAX_REQUEST_BYTES = 64 << 10  # Parsed between two hits, so in less than a millisecond.


@dataclass(frozen=True, slots=True)
class Ready:
    """The result of an acquire. `path` is the snapshot's directory; `lock` is the file to flock and keep open."""

    path: str
    lock: str
    digest: str
    revision: str = ""
    source: str = ""
    size: int = 0
    hit: bool = False
    stale: bool = False


def encode(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def reply(value: Mapping[str, Any]) -> bytes:
    """Encode one object of an answer, with this version's `api`."""
    return encode({**value, "api": API})


def progress_line(progress: Progress) -> bytes:
    return reply({"event": "progress", **_said(progress)})


def ready_line(ready: Ready) -> bytes:
    return reply({"event": "ready", **_said(ready)})


def _said(value: Progress | Ready) -> dict[str, Any]:
    """Return the value's fields. `asdict` would copy each of them, at a quarter of the cost of a hit."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def error_body(error: CachedError) -> dict[str, Any]:
    """Return the error as it is sent. `status` is for an error on the last line of an answer that began well, and for
    clients that do not know the code."""
    said = {"code": error.code, "message": error.message, "retryable": error.retryable}
    return {"event": "error", **said, "status": error.status}


def api_of(answer: Mapping[str, Any]) -> int:
    """Return the API version of the other side; 1 if it names none."""
    api = answer.get("api")
    return api if type(api) is int and api > 0 else 1


def parse_progress(line: Mapping[str, Any]) -> Progress:
    return Progress(**{"phase": "", **_known(Progress, line)})


def parse_ready(line: Mapping[str, Any]) -> Ready:
    """Parse a `ready` line. Raise VersionMismatch if a field without a default is missing: the directory, its lock
    file, the digest."""
    known = _known(Ready, line)
    missing = [field.name for field in fields(Ready) if field.default is MISSING and field.name not in known]
    if missing:
        raise VersionMismatch(
            f"The daemon's answer (API {api_of(line)}) has no {missing[0]!r}, which this client (API {API}) needs: "
            "install the same version of model-cached on both sides."
        )
    return Ready(**known)


def parse_error(line: Mapping[str, Any]) -> CachedError:
    status, retryable = line.get("status"), line.get("retryable")
    return from_code(
        str(line.get("code", "")),
        str(line.get("message", "The daemon gave no reason.")),
        status if type(status) is int else 500,
        retryable is True,
    )


_TYPES: dict[object, type] = {"str": str, "int": int, "bool": bool}


def _known(kind: type[Any], line: Mapping[str, Any]) -> dict[str, Any]:
    """Return the dataclass's fields that `line` has, each of its type; a field of another type counts as missing."""
    return {
        field.name: line[field.name] for field in fields(kind) if type(line.get(field.name)) is _TYPES.get(field.type)
    }
