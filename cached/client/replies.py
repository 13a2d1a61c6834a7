"""The answers of every verb but acquire, with a default for each field that a daemon of another version leaves out.

A new field of an answer gets its row here, so that a client never receives an answer without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Shape = Mapping[str, Any]  # By field: a default; for lists of objects, a list that holds the shape of each.

_FILE: Shape = {"path": "", "size": 0, "digest": ""}
_ENTRANT: Shape = {"uid": None, "until": None}
_EVENT: Shape = {"at": "1970-01-01T00:00:00Z", "what": "", "why": ""}
_LEASE: Shape = {
    "digest": "",
    "source": "",
    "pid": None,
    "uid": None,
    "command": "",
    "since": None,
    "held": False,
    "reopen": False,
}
_SNAPSHOT: Shape = {
    "digest": "",
    "state": "",
    "source": "",
    "revision": "",
    "size": 0,
    "files": 0,
    "created_at": None,
    "used_at": None,
    "leased": False,
    "pinned": False,
    "pinned_until": None,
    "access": "unknown",
    "root": "",
    "refs": [],
}
_DETAILS: Shape = {
    **_SNAPSHOT,
    "path": "",
    "lock": "",
    "manifest": [_FILE],
    "shared_bytes": 0,
    "unique_bytes": 0,
    "brought_by": None,
    "entrants": [_ENTRANT],
    "history": [_EVENT],
    "holders": [_LEASE],
}
_VICTIM: Shape = {"digest": None, "source": "", "size": 0, "reason": ""}
_FILL: Shape = {
    "ref": "",
    "waiters": 0,
    "phase": "",
    "done_bytes": 0,
    "total_bytes": 0,
    "cached_bytes": 0,
    "done_files": 0,
    "total_files": 0,
}
_ROOT: Shape = {"root": "", "reason": None}  # A root that does not answer has no other fields.
_STATUS: Shape = {
    **_ROOT,
    "version": "",
    "healthy": True,
    "roots": [_ROOT],
    "limit": 0,
    "used": 0,
    "reserved": 0,
    "free": 0,
    "quarantined": 0,
    "snapshots": 0,
    "blobs": 0,
    "damaged": 0,
    "leases": 0,
    "recovered": None,
    "fills": [_FILL],
    "hits": 0,
    "misses": 0,
    "stale": 0,
    "failures": 0,
    "fetched_bytes": 0,
    "scrubbed_blobs": 0,
    "scrubbed_bytes": 0,
    "scrub_damaged": 0,
    "workers": [],
    "workers_lost": 0,
    "uptime": 0.0,
}
_PLAN: Shape = {
    "source": "",
    "revision": "",
    "root": "",
    "size": 0,
    "files": 0,
    "fetch_bytes": 0,
    "fetch_files": 0,
    "fits": True,
    "reason": None,
    "evict": [_VICTIM],
}
_DAMAGE: Shape = {"digest": "", "path": "", "problem": "", "snapshots": [], "repaired": False}
SHAPES: Mapping[str, Shape] = {
    "POST /v1/plan": _PLAN,
    "GET /v1/snapshots": {"snapshots": [_SNAPSHOT]},
    "GET /v1/snapshots/": _DETAILS,
    "GET /v1/status": _STATUS,
    "GET /v1/leases": {"leases": [_LEASE]},
    "POST /v1/pin": _SNAPSHOT,
    "POST /v1/unpin": _SNAPSHOT,
    "POST /v1/remove": {"removed": [_DETAILS], "freed": 0},
    "POST /v1/gc": {"removed": [_VICTIM], "freed": 0, "short": 0},
    "POST /v1/verify": {"checked": 0, "bytes": 0, "damaged": [_DAMAGE]},
}


def complete(method: str, verb: str, answer: dict[str, Any]) -> dict[str, Any]:
    """Return the answer, with a default for each field that it lacks."""
    shape = SHAPES.get(f"{method} {verb}")
    if shape is None and verb.startswith("/v1/snapshots/"):
        shape = _GONE if answer.get("state") == "gone" else SHAPES[f"{method} /v1/snapshots/"]
    return answer if shape is None else _filled(shape, answer)


_GONE: Shape = {"digest": "", "source": "", "state": "gone", "history": [_EVENT]}


def _filled(shape: Shape, answer: dict[str, Any]) -> dict[str, Any]:
    filled = {**shape, **answer}
    for name, default in shape.items():
        if isinstance(default, list):
            each = default[0] if default else None
            items = answer.get(name) or []
            filled[name] = [_filled(each, item) for item in items] if each is not None else items
    return filled
