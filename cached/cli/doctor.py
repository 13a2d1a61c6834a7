"""`doctor`: check the installation from this process's side and say how to repair it. It changes nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cached import __version__
from cached.cli import options
from cached.cli.last_start import check_last_start
from cached.cli.modes import check_modes
from cached.cli.node import (
    Check,
    check_acls,
    check_credentials,
    check_flock,
    check_root,
    check_socket,
    check_space,
    check_sqlite,
)
from cached.cli.output import human_seconds, print_json, print_table, printable, text
from cached.config import DEFAULT_FILE, DEFAULT_SOCKET, Config
from cached.errors import CachedError, ConfigError


def doctor(
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Settings to check; /etc/cached/config.toml if left out."),
    ] = None,
    as_json: options.Json = False,
    socket: options.Socket = None,
) -> int:
    """Check the installation and say what to mend.

    Exit 1 if a check fails. Run it as the user whose access matters: it checks what this user can reach.
    """
    checks = examine(config, socket)
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        _print(checks)
    return 1 if any(check.status == "fail" for check in checks) else 0


def examine(file: Path | None, socket: Path | None) -> list[Check]:
    """Run every check, in the order in which an operator would repair the problems."""
    settings, config_check = _check_config(file)
    place = socket or (settings.socket if settings else Path(DEFAULT_SOCKET))
    status, daemon_checks = _check_daemon(place)
    checks = [config_check, check_socket(place), *daemon_checks]
    for root, told in _roots(settings, status):
        checks.append(check_root(root))
        if root.is_dir():
            checks += [check_flock(root), check_modes(root), check_space(root, told)]
            checks.append(check_acls(root, settings is None or settings.access == "caller"))
    return [*checks, check_credentials(), check_sqlite()]


def _roots(settings: Config | None, status: Mapping[str, Any] | None) -> list[tuple[Path, Mapping[str, Any] | None]]:
    """Return each root, and the daemon's status of it; None without an answer."""
    if status is not None:
        return [(Path(str(root["root"])), root if "limit" in root else None) for root in status["roots"]]
    return [(root, None) for root in settings.all_roots] if settings is not None else []


def _check_config(file: Path | None) -> tuple[Config | None, Check]:
    place = file or DEFAULT_FILE
    try:
        settings = Config.load(file)
    except ConfigError as error:
        if isinstance(error.__cause__, PermissionError):
            return None, Check(
                "config", "warn", f"{place} cannot be read by this user.", "Run it as root or as the daemon's user."
            )
        return None, Check("config", "fail", error.message, f"Correct {place} or the CACHED_ variable.")
    if file is None and not DEFAULT_FILE.exists():
        return settings, Check("config", "ok", f"There is no {place}: defaults and CACHED_ variables apply.")
    return settings, Check("config", "ok", f"{place} is well-formed.")


def _check_daemon(socket: Path) -> tuple[Mapping[str, Any] | None, list[Check]]:
    """Return the daemon's own status, or None without an answer, and the checks that follow from it."""
    try:
        with options.connect(socket) as client:
            status = client.call("GET", "/v1/status")
    except CachedError as error:
        mend = "Start it: `systemctl start cached`, or `cached serve`; then see `journalctl -u cached`."
        return None, [Check("daemon", "fail", error.message, mend)]
    if status["healthy"]:
        up = human_seconds(float(status.get("uptime") or 0))
        health = Check("daemon", "ok", f"Version {status['version']}, healthy, up {up}.")
    else:
        mend = "See `journalctl -u cached`; mend the cause and restart the daemon."
        health = Check("daemon", "fail", f"It answers, but is not healthy: {status.get('reason')}", mend)
    checks = [health, _check_version(str(status["version"]))]
    if status.get("recovered") is not None:  # Older daemons do not say.
        checks.append(check_last_start(status["recovered"]))
    return status, checks


def _check_version(daemon: str) -> Check:
    if daemon == __version__:
        return Check("version", "ok", f"Client and daemon are both {daemon}.")
    mend = "Install the same version of model-cached on both sides and restart the daemon."
    return Check("version", "warn", f"The client is {__version__}, the daemon {daemon}.", mend)


def _print(checks: Sequence[Check]) -> None:
    """Print a table and the repairs below it; in a pipe four columns: status, check, detail, mend."""
    if not sys.stdout.isatty():
        print_table((), [(text(c.status), text(c.name), text(c.detail), text(c.mend)) for c in checks])
        return
    marks = {"ok": "ok", "warn": "warn", "fail": "FAIL"}
    print_table(("", "CHECK", "DETAIL"), [(text(marks[c.status]), text(c.name), text(c.detail)) for c in checks])
    to_mend = [check for check in checks if check.mend]
    print("\nTo mend:" if to_mend else "\nNothing to mend.")
    for check in to_mend:
        print(f"  {printable(check.name)}: {printable(check.mend)}")
