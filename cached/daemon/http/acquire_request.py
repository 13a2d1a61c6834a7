"""An acquire as it is received: checked field by field, so that no wrong type gets further in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cached.access import Credentials
from cached.daemon.acquire.request import Ask
from cached.errors import InvalidRequest
from cached.model_ref import ModelRef
from cached.variables import cleaned

MAX_PATTERNS = 1000  # Of both kinds together, …
MAX_PATTERN = 1024  # … each of at most this many characters (file names have no more bytes), …
MAX_PATTERN_BYTES = 16 << 10  # … and all together of at most this many bytes.
MAX_CREDENTIAL_BYTES = 16 << 10  # Of all credentials together.


@dataclass(frozen=True, slots=True)
class Acquire:
    ask: Ask
    credentials: Credentials
    abandon: bool
    pins: bool
    keep: float | None

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Acquire:
        """Parse a request body. Raises InvalidRequest, which names the wrong field."""
        patterns = _patterns(body, "include"), _patterns(body, "exclude")
        _bound(*patterns)
        revision = text(body, "revision") if body.get("revision") is not None else None
        ref = ModelRef.parse(text(body, "uri"), revision, *patterns, flag(body, "lean"))
        require = text(body, "require") if body.get("require") is not None else None
        if require not in (None, "llm"):
            raise InvalidRequest(f"`require` must be 'llm', not {require[:40]!r}.")
        keep = number(body, "keep")
        ask = Ask(ref, number(body, "max_age"), flag(body, "offline"), require)
        return cls(ask, _credentials(body), flag(body, "abandon"), flag(body, "pin") or keep is not None, keep)


def text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value or len(value) > 4096:
        raise InvalidRequest(f"`{name}` must be a text of 1 to 4096 characters.")
    _bytes(value)
    return value


def flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise InvalidRequest(f"`{name}` must be true or false.")
    return value


def number(body: Mapping[str, Any], name: str) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e18:
        raise InvalidRequest(f"`{name}` must be a number that is not negative.")
    return float(value)


def _patterns(body: Mapping[str, Any], name: str) -> list[str]:
    value = body.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidRequest(f"`{name}` must be a list of patterns.")
    return value


def _bound(include: list[str], exclude: list[str]) -> None:
    """Raise InvalidRequest if the patterns pass a bound; it names the bound, and the value that passes it."""
    count = len(include) + len(exclude)
    if count > MAX_PATTERNS:
        raise InvalidRequest(f"There are {count:,} patterns, and at most {MAX_PATTERNS:,} are taken; give fewer.")
    for pattern in (*include, *exclude):
        if len(pattern) > MAX_PATTERN:
            raise InvalidRequest(
                f"The pattern {pattern[:40]!r}… has {len(pattern):,} characters, of which {MAX_PATTERN:,} are taken; "
                "give a shorter one."
            )
    size = _bytes(*include, *exclude)
    if size > MAX_PATTERN_BYTES:
        raise InvalidRequest(
            f"The patterns have {size:,} bytes together, and at most {MAX_PATTERN_BYTES:,} are taken; give fewer."
        )


def _bytes(*texts: str) -> int:
    """Return the bytes of the texts together. Raises InvalidRequest for lone surrogates, which JSON can hold and no
    file name can."""
    try:
        return sum([len(each.encode()) for each in texts])
    except UnicodeEncodeError:
        raise InvalidRequest("A text of the request is not valid Unicode.") from None


def _credentials(body: Mapping[str, Any]) -> Credentials:
    value = body.get("credentials", {})
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise InvalidRequest("`credentials` must be an object of texts.")
    if _bytes(*value.keys(), *value.values()) > MAX_CREDENTIAL_BYTES:
        raise InvalidRequest(f"`credentials` has more than {MAX_CREDENTIAL_BYTES:,} bytes, which none need.")
    return Credentials(cleaned(value))
