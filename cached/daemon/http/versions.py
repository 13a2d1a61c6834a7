"""Versions of a request: the API that its client speaks, and the options that the daemon must understand.

A new option of a request is added to `FIELDS`. An option that changes what is served, and that older daemons would
ignore, is sent under `must` by its client; those of API 1 (offline, require, include, exclude, max_age, abandon, pin,
keep, lean) stay at the top level, where every daemon knows them.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from cached.errors import InvalidRequest, VersionMismatch
from cached.wire import API

log = logging.getLogger("cached.api")

_ALWAYS = ("api", "must")
_ACQUIRE = (
    *("uri", "revision", "include", "exclude", "lean", "require", "max_age", "offline"),
    *("pin", "keep", "abandon", "credentials"),
)
FIELDS: Mapping[str, frozenset[str]] = {
    verb: frozenset(names)
    for verb, names in {
        "/v1/acquire": _ACQUIRE,
        "/v1/plan": _ACQUIRE,
        "/v1/pin": ("ref", "keep"),
        "/v1/unpin": ("ref",),
        "/v1/remove": ("ref", "dry_run"),
        "/v1/gc": ("free", "dry_run"),
        "/v1/verify": ("ref", "deep", "repair"),
    }.items()
}
_MAX_MUST = 16
_MAX_NOTED = 256  # Logged names that are remembered; bounded, because callers choose them.
_MAX_NAME = 64
_noted: set[tuple[str, str]] = set()


def understood(verb: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a request, including those under `must`. Raises VersionMismatch, which names the first
    unknown field under `must`.

    Other unknown fields are ignored, and logged once.
    """
    api, must = _api(body.get("api", 1)), body.get("must", {})
    if not isinstance(must, dict) or len(must) > _MAX_MUST:
        raise InvalidRequest(f"`must` must be an object of at most {_MAX_MUST} options.")
    known = FIELDS.get(verb, frozenset())
    for name in must:
        if name not in known:
            raise VersionMismatch(_refusal(name, api))
        if name in body:
            raise InvalidRequest(f"`{name}` stands in the request twice, also under `must`.")
    _note(verb, (name for name in body if name not in known and name not in _ALWAYS))
    return {**body, **must}


def check_query(verb: str, query: Mapping[str, str]) -> None:
    """Check the versions in the query of a request without a body, as `understood` does for a body."""
    said: dict[str, Any] = {}
    for name in _ALWAYS:
        if name in query:
            try:
                said[name] = json.loads(query[name])
            except (ValueError, RecursionError):
                raise InvalidRequest(f"`{name}` in the query is not JSON.") from None
    understood(verb, {**dict.fromkeys(query), **said})


def _api(value: object) -> int:
    if type(value) is not int or not 1 <= value < 1 << 31:
        raise InvalidRequest("`api` must be a whole number from 1 up.")
    return value


def _refusal(name: str, api: int) -> str:
    this = f"This daemon ({version('model-cached')}, API {API})"
    what = f"{this} does not know {name[:_MAX_NAME]!r}, which must be understood"
    if api > API:
        return f"{what}: it is older than the client (API {api}), so update the daemon on this node."
    if api < API:
        return f"{what}: the client (API {api}) is older, so update that."
    return f"{what}: the client speaks the same API, so check the name."


def _note(verb: str, names: Iterable[str]) -> None:
    for name in itertools.islice(names, 8):
        noted = (verb, name[:_MAX_NAME])
        if noted not in _noted and len(_noted) < _MAX_NOTED:
            _noted.add(noted)
            log.info("request.unknown_field", extra={"verb": verb, "field": repr(noted[1])})
