"""The JSON that crosses the socket, shared by the API and the client. Standard library only.

An acquire answers with NDJSON: any number of `progress` lines, then one `ready` or one `error`. A hit is one line.
Every other verb answers with one object; a failure is `{"event": "error", …}` with the error's HTTP status.

Client and daemon differ in version: the one lives in images, the other on nodes. So requests and replies carry `api`
(absent: 1). What a reply lacks has a default here, what is unknown in it is passed over, and an unknown kind of error
becomes the class of its HTTP status. What is unknown at the top of a request is passed over too; what must be
understood stands under `must`, and a daemon that does not know a name there refuses the request. To a request of API 1
no event is sent but those three: its clients take any other for the last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from cached.errors import CachedError, VersionMismatch, from_code
from cached.model import Progress

API = 2  # What is spoken here. 1 had neither `api` nor `must`.

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
    revision: str = ""
    source: str = ""
    size: int = 0
    hit: bool = False
    stale: bool = False


def encode(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def reply(value: Mapping[str, Any]) -> bytes:
    """One object of an answer, as this version gives it."""
    return encode({**value, "api": API})


def progress_line(progress: Progress) -> bytes:
    return reply({"event": "progress", **_said(progress)})


def ready_line(ready: Ready) -> bytes:
    return reply({"event": "ready", **_said(ready)})


def _said(value: Progress | Ready) -> dict[str, Any]:
    """Its fields; `asdict` copies each of them, at a quarter of the cost of a hit."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def error_body(error: CachedError) -> dict[str, Any]:
    """`status` is there for the last line of an answer that began well, and for clients that do not know the code."""
    said = {"code": error.code, "message": error.message, "retryable": error.retryable}
    return {"event": "error", **said, "status": error.status}


def api_of(answer: Mapping[str, Any]) -> int:
    """What the other side speaks: 1 where it does not say."""
    api = answer.get("api")
    return api if type(api) is int and api > 0 else 1


def parse_progress(line: Mapping[str, Any]) -> Progress:
    return Progress(**{"phase": "", **_known(Progress, line)})


def parse_ready(line: Mapping[str, Any]) -> Ready:
    """VersionMismatch when it lacks what nothing can stand for: the directory, its lock file, the digest."""
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
    """What `line` has of a dataclass's fields, each of its type; the rest is as good as missing."""
    return {
        field.name: line[field.name] for field in fields(kind) if type(line.get(field.name)) is _TYPES.get(field.type)
    }
