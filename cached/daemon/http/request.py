"""An acquire as it comes off the wire: checked field by field, so that nothing inside meets a wrong type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cached.access import Credentials
from cached.daemon.ask import Ask
from cached.errors import InvalidRequest
from cached.model import ModelRef
from cached.variables import cleaned

MAX_PATTERNS = 1000


@dataclass(frozen=True, slots=True)
class Acquire:
    ask: Ask
    credentials: Credentials
    abandon: bool
    pins: bool
    keep: float | None

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Acquire:
        """InvalidRequest names the field that is wrong."""
        ref = ModelRef.parse(
            text(body, "uri"),
            text(body, "revision") if body.get("revision") is not None else None,
            _patterns(body, "include"),
            _patterns(body, "exclude"),
            flag(body, "lean"),
        )
        require = text(body, "require") if body.get("require") is not None else None
        if require not in (None, "llm"):
            raise InvalidRequest(f"`require` must be 'llm', not {require!r}.")
        keep = number(body, "keep")
        ask = Ask(ref, number(body, "max_age"), flag(body, "offline"), require)
        return cls(ask, _credentials(body), flag(body, "abandon"), flag(body, "pin") or keep is not None, keep)


def text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value or len(value) > 4096:
        raise InvalidRequest(f"`{name}` must be a text of 1 to 4096 characters.")
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
    if not isinstance(value, list) or len(value) > MAX_PATTERNS or not all(isinstance(item, str) for item in value):
        raise InvalidRequest(f"`{name}` must be a list of patterns.")
    return value


def _credentials(body: Mapping[str, Any]) -> Credentials:
    value = body.get("credentials", {})
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise InvalidRequest("`credentials` must be an object of texts.")
    return Credentials(cleaned(value))
