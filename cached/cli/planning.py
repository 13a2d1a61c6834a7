"""`pull --dry-run`: show if a model would fit, and which snapshots would be evicted for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cached.cli import options
from cached.cli.output import digest, human_size, print_json, print_table, size, text
from cached.errors import NoSpace


def show_plan(body: dict[str, Any], as_json: bool, socket: Path | None) -> int:
    """Request the plan of this acquire, and print it. Return the exit code, 5 when it would not fit."""
    with options.connect(socket, patient=True) as client:
        plan = client.call("POST", "/v1/plan", body)
    if as_json:
        print_json(plan)
    else:
        name = text(plan["source"]).pretty
        root = text(plan["root"]).pretty
        print(f"Would fetch {human_size(plan['fetch_bytes'])} of {human_size(plan['size'])} to {root}.")
        rows = [(digest(v["digest"]), text(v["source"]), size(v["size"]), text(v["reason"])) for v in plan["evict"]]
        print_table(("WOULD GO", "SOURCE", "SIZE", "WHY"), rows)
        print(f"{name} would fit." if plan["fits"] else f"{name} would not fit: {text(plan['reason']).pretty}")
    return 0 if plan["fits"] else NoSpace.exit_code
