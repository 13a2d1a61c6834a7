"""The format of answers: tables on a terminal, exact tab-separated columns in a pipe, JSON on request.

A terminal gets rounded sizes and relative times. A pipe gets no header, full digests, bytes and RFC 3339 times, so that
`cut` and `awk` can rely on the columns.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

SHORT_DIGEST = 12  # Hex digits shown on a terminal; a prefix that `show`, `pin` and `rm` accept.


@dataclass(frozen=True, slots=True)
class Cell:
    """A value in its two forms: for a terminal, and for a pipe."""

    pretty: str
    plain: str


def text(value: object) -> Cell:
    """Format any value. Other processes' command lines are shown too, so control characters are replaced."""
    shown = "-" if value is None or value == "" else printable(str(value))
    return Cell(shown, shown)


def size(value: int | None) -> Cell:
    return Cell(human_size(value), str(value)) if value is not None else text(None)


def time(value: str | None) -> Cell:
    return Cell(relative_time(value), printable(value)) if value else text(None)


def digest(value: str | None) -> Cell:
    if not value:
        return text(None)
    return Cell(printable(value).removeprefix("sha256:")[:SHORT_DIGEST], printable(value))


def printable(value: str) -> str:
    """Return `value` on one line, with each control character replaced."""
    if value.isprintable() and " " not in value:  # Most values are; the rest is slow for a list of ten thousand.
        return value
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(value.split()))


def human_size(count: int) -> str:
    """Format bytes with a binary unit: `512 B`, `1.5 GiB`."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(amount) < 1024 or unit == "TiB":
            break
        amount /= 1024
    return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"


def human_seconds(seconds: float) -> str:
    """Format seconds in one unit, rounded down: `45 s`, `12 min`, `3 h`, `9 d`."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def relative_time(value: str, now: datetime | None = None) -> str:
    """Format a time as `5 min ago` or `in 2 h`; a text that is no time is returned as it is, printable."""
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return printable(value)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    ahead = (moment - (now or datetime.now(UTC))).total_seconds()
    if abs(ahead) < 1:
        return "now"
    return f"in {human_seconds(ahead)}" if ahead > 0 else f"{human_seconds(-ahead)} ago"


def print_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print one line, so that the last line of stdout is always one complete document."""
    print(json.dumps(value).replace("\x7f", "\\u007f"), flush=True)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[Cell]], empty: str = "") -> None:
    """Print the rows as a table on a terminal (`empty` when there are none), else as tab-separated lines."""
    listed = list(rows)
    if not sys.stdout.isatty():
        for row in listed:
            print("\t".join(cell.plain for cell in row))
        return
    if not listed:
        if empty:
            print(empty)
        return
    _print_rich(headings, listed)


def print_fields(fields: Iterable[tuple[str, Cell]]) -> None:
    """Print names and values, one line each."""
    listed = list(fields)
    width = max((len(name) for name, _ in listed), default=0)
    pretty = sys.stdout.isatty()
    for name, cell in listed:
        print(f"{name:<{width}}  {cell.pretty}" if pretty else f"{name}\t{cell.plain}")


def warn(message: str) -> None:
    """Print one line on stderr, so that stdout keeps the format that a script expects."""
    print(f"cached: {printable(message)}", file=sys.stderr, flush=True)


def _print_rich(headings: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    # Imported late: rich takes tens of milliseconds, and scripts that pipe never need it.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        # Digests, sizes and times stay whole on a narrow terminal; long names fold instead.
        table.add_column(heading, no_wrap=heading not in _FOLDING, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell.pretty) for cell in row))
    Console(highlight=False).print(table)


_FOLDING = ("SOURCE", "COMMAND", "PATH", "WHAT TO MEND", "DETAIL", "PROBLEM", "WHY")
