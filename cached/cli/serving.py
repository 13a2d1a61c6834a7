"""`serve`: run the daemon in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cached.cli import options
from cached.config import Config
from cached.errors import CachedError


def serve(
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Settings; /etc/cached/config.toml if left out.")
    ] = None,
    root: Annotated[Path | None, typer.Option("--root", metavar="DIR", help="Where models are kept.")] = None,
    # No environment variable here: the settings read CACHED_SOCKET themselves, in their own order.
    socket: Annotated[Path | None, typer.Option("--socket", metavar="PATH", help="The socket to listen on.")] = None,
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="HOST:PORT", help="Also serve /metrics and /healthz over TCP.")
    ] = None,
    as_json: options.Json = False,
) -> int:
    """Run the daemon in the foreground, until SIGTERM or Ctrl-C.

    Settings come from the file, then from CACHED_* variables, then from these options.
    """
    settings = Config.load(config, root=root, socket=socket, listen=listen)
    try:
        # Imported here only: a plain install is the client and these commands, without the daemon's dependencies.
        from cached.daemon.main import run
    except ModuleNotFoundError as error:
        missing = error.name or "a module"
        if missing.partition(".")[0] == "cached":
            raise
        raise CachedError(
            f"The daemon cannot start because {missing} is not installed: pip install 'model-cached[daemon]'."
        ) from None
    return run(settings)
