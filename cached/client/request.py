"""The body of an acquire request, as the client writes it on the wire."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cached.variables import cleaned
from cached.wire import FORWARDED

DEFAULTS: dict[str, Any] = {
    "revision": None,
    "include": (),
    "exclude": (),
    "max_age": None,
    "offline": False,
    "pin": False,
    "keep": None,
    "abandon": False,
    "require": None,
    "lean": False,
}


def acquire_body(
    uri: str,
    revision: str | None,
    include: Iterable[str],
    exclude: Iterable[str],
    max_age: float | None,
    offline: bool,
    pin: bool,
    keep: float | None,
    abandon: bool,
    require: str | None,
    lean: bool,
) -> dict[str, Any]:
    body: dict[str, Any] = {"uri": uri}
    if revision is not None:
        body["revision"] = revision
    for name, patterns in (("include", include), ("exclude", exclude)):
        if patterns:
            body[name] = [patterns] if isinstance(patterns, str) else list(patterns)
    for name, number in (("max_age", max_age), ("keep", keep), ("require", require)):
        if number is not None:
            body[name] = number
    flags = (("offline", offline), ("pin", pin), ("abandon", abandon), ("lean", lean))
    body.update({name: True for name, flag in flags if flag})
    forwarded = credentials(os.environ)
    if forwarded:
        body["credentials"] = forwarded
    return body


def credentials(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the caller's own credentials for the source; the daemon keeps them in memory for this request only. Raise
    InvalidRequest if a value cannot be valid."""
    found = {name: environ[name] for name in FORWARDED if environ.get(name)}
    key_file = environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if key_file:
        try:
            found["GOOGLE_APPLICATION_CREDENTIALS_JSON"] = Path(key_file).read_text()
        except (OSError, ValueError):
            pass  # Google's own libraries report it, where the file is needed.
    return cleaned(found)
