"""`pull` and `path`: from a URI to a directory on this node."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cached.cli import options
from cached.cli.output import print_json, warn
from cached.cli.planning import show_plan
from cached.cli.progress import display
from cached.client.request import DEFAULTS, acquire_body
from cached.uris import display_name
from cached.wire import Ready

SHOWN = ("path", "digest", "revision", "source", "size", "hit", "stale")


def pull(
    uri: options.Uri,
    revision: options.Revision = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    lean: options.Lean = False,
    pin: Annotated[bool, typer.Option("--pin", help="Pin it, so that it stays until `cached unpin`.")] = False,
    keep: options.Keep = None,
    offline: Annotated[bool, typer.Option("--offline", help="Fetch nothing; exit 3 if it is not cached.")] = False,
    max_age: options.MaxAge = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say whether it would fit, and what would go for it; fetch nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    as_json: options.Json = False,
    socket: options.Socket = None,
) -> int:
    """Make a model present on this node and print its directory.

    The path goes to stdout and progress to stderr. Nothing holds the model afterwards: it stays until its space is
    needed. Pin it, or let the process that loads it take a lease, to keep it for longer.
    """
    asked = {**_selection(revision, include, exclude, lean), "offline": offline, "max_age": max_age}
    if dry_run:
        return show_plan(acquire_body(uri, **{**DEFAULTS, **asked}), as_json, socket)
    with options.connect(socket) as client, display(uri, quiet) as show:
        ready = client.pull(uri, **asked, progress=show, pin=pin or keep is not None, keep=keep)
    _warn_if_stale(uri, ready)
    _print_ready(ready, as_json)
    return 0


def path(
    uri: options.Uri,
    revision: options.Revision = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    lean: options.Lean = False,
    as_json: options.Json = False,
    socket: options.Socket = None,
) -> int:
    """Print the directory of a cached model; fetch nothing.

    Exit 3 if the node does not hold it. Give the patterns, or `--lean`, with which it was pulled.
    """
    with options.connect(socket) as client:
        ready = client.path(uri, **_selection(revision, include, exclude, lean))
    _print_ready(ready, as_json)
    return 0


def _selection(
    revision: str | None, include: list[str] | None, exclude: list[str] | None, lean: bool
) -> dict[str, Any]:
    """Return the options of an acquire that select files."""
    return {"revision": revision, "include": tuple(include or ()), "exclude": tuple(exclude or ()), "lean": lean}


def _warn_if_stale(uri: str, ready: Ready) -> None:
    if ready.stale:
        warn(
            f"{display_name(uri)}: the source did not answer, so this is revision {ready.revision}, the latest that "
            "the node knows."
        )


def _print_ready(ready: Ready, as_json: bool) -> None:
    if as_json:
        print_json({name: getattr(ready, name) for name in SHOWN})
    else:
        print(ready.path, flush=True)
