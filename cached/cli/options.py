"""The options that several commands share, and their parsers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cached.client.client import Client
from cached.config import Duration, Size
from cached.errors import ConfigError

# Checking or freeing terabytes is answered only when done; a missing daemon is still noticed at once.
PATIENT_SECONDS = 24 * 3600.0


def parse_size(text: str) -> int:
    """Parse `20GiB`, `500MB` or bytes; anything else is a usage error that names the option."""
    try:
        return int(Size.parse(text))
    except ConfigError as error:
        raise typer.BadParameter(error.message) from None


def parse_duration(text: str) -> float:
    """Parse `2h`, `90s` or seconds; anything else is a usage error that names the option."""
    try:
        return float(Duration.parse(text))
    except ConfigError as error:
        raise typer.BadParameter(error.message) from None


def not_empty(ref: str | None) -> str | None:
    """Return `ref`. Raises a usage error if it is empty: an unset shell variable must not act as a prefix of
    everything."""
    if ref is not None and not ref.strip():
        raise typer.BadParameter("it is empty.")
    return ref


Uri = Annotated[
    str,
    typer.Argument(metavar="URI", help="hf://org/name[@revision], org/name, s3://bucket/prefix, gs://bucket/prefix."),
]
Ref = Annotated[
    str,
    typer.Argument(
        metavar="REF", callback=not_empty, help="A URI, a snapshot's digest, or an unambiguous prefix of one."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON: sizes in bytes, times in RFC 3339 UTC.")]
Socket = Annotated[
    Path | None,
    typer.Option("--socket", metavar="PATH", envvar="CACHED_SOCKET", help="The daemon's socket."),
]
Revision = Annotated[str | None, typer.Option("--revision", metavar="R", help="A branch, a tag or a commit.")]
Include = Annotated[
    list[str] | None, typer.Option("--include", metavar="GLOB", help="Take only files that match; may be repeated.")
]
Exclude = Annotated[
    list[str] | None, typer.Option("--exclude", metavar="GLOB", help="Leave out files that match; may be repeated.")
]
Lean = Annotated[
    bool, typer.Option("--lean", help="Leave out what vLLM does not read, as replicas of Ray Serve LLM do.")
]
Keep = Annotated[
    float | None,
    typer.Option("--keep", metavar="TIME", parser=parse_duration, help="Pin it for so long: 90s, 30m, 2h, 7d."),
]
MaxAge = Annotated[
    float | None,
    typer.Option(
        "--max-age",
        metavar="TIME",
        parser=parse_duration,
        help="How old the last look at a moving name may be: 0 asks the source now.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")]


def connect(socket: Path | None, patient: bool = False) -> Client:
    """Return a client on that socket, or on the default one. A patient one waits for work that takes hours."""
    return Client(socket, timeout=PATIENT_SECONDS) if patient else Client(socket)
