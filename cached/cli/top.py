"""`top`: a screen of the daemon's state, redrawn for an operator who watches a node at work."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from cached.cli import options
from cached.cli.inventory import FILL_HEADINGS, LEASE_HEADINGS, fill_row, lease_row
from cached.cli.output import human_size, print_json, print_table, printable
from cached.client.client import Client

Answer = Mapping[str, Any]

_CLEAR = "\x1b[H\x1b[2J"
SHOWN_LEASES = 20  # As many as a screen has lines for; `cached leases` lists all.


def top(
    interval: Annotated[
        float,
        typer.Option("--interval", metavar="TIME", parser=options.parse_duration, help="Between two looks: 2s, 500ms."),
    ] = 2.0,
    count: Annotated[int, typer.Option("--count", metavar="N", min=0, help="Looks to take; 0 is until Ctrl-C.")] = 0,
    as_json: options.Json = False,
    socket: options.Socket = None,
) -> int:
    """Watch the daemon: rates, space, running fills and who holds what.

    On a terminal one screen, drawn again and again; with --json or in a pipe one line of JSON for each look.
    """
    on_screen = sys.stdout.isatty() and not as_json
    before: Answer | None = None
    with options.connect(socket) as client:
        for number in range(count or sys.maxsize):
            if number:
                time.sleep(interval)
            now = _look(client, before)
            if on_screen:
                _draw(now)
            else:
                print_json(now)
            before = now
    return 0


def _look(client: Client, before: Answer | None) -> dict[str, Any]:
    """Return the status and leases, and the rates per second since the call before."""
    status = client.call("GET", "/v1/status")
    leases = client.call("GET", "/v1/leases")["leases"]
    taken = time.monotonic()
    rates = {"hits": 0.0, "misses": 0.0, "fetched_bytes": 0.0}
    if before is not None and status["uptime"] >= before["status"]["uptime"]:  # Otherwise it was restarted.
        passed = taken - before["taken"]
        rates = {name: (status[name] - before["status"][name]) / passed for name in rates}
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"at": at, "taken": taken, "per_second": rates, "status": status, "leases": leases}


def _draw(look: Answer) -> None:
    status, rates = look["status"], look["per_second"]
    print(_CLEAR, end="")
    health = "healthy" if status["healthy"] else printable(f"NOT HEALTHY: {status['reason']}")
    print(f"cached {printable(str(status['version']))}  {look['at']}  {health}")
    print(
        f"{human_size(status['used'])} used, {human_size(status['reserved'])} reserved of {human_size(status['limit'])}"
        f"  ·  {status['snapshots']} snapshots, {status['damaged']} damaged  ·  {len(look['leases'])} leases"
    )
    fetched, scrubbed = human_size(int(rates["fetched_bytes"])), human_size(status["scrubbed_bytes"])
    print(
        f"{rates['hits']:.1f} hits/s  ·  {rates['misses']:.1f} misses/s  ·  {fetched}/s from the sources  ·  "
        f"{scrubbed} scrubbed"
    )
    print()
    print_table(FILL_HEADINGS, map(fill_row, status["fills"]), empty="Nothing is being fetched.")
    print()
    shown = look["leases"][:SHOWN_LEASES]
    print_table(LEASE_HEADINGS, map(lease_row, shown), empty="Nobody holds a model.")
    if len(look["leases"]) > len(shown):
        print(f"and {len(look['leases']) - len(shown)} more")
    sys.stdout.flush()
