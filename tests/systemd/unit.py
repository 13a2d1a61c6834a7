"""The files that an operator installs, as the tests read them."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[2] / "systemd"


def directives(text: str) -> dict[str, list[str]]:
    """Every directive of a unit, by name, with its values in order. Comments and section names are left out."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith(("#", ";", "[")):
            found.setdefault(name, []).append(value)
    return found
