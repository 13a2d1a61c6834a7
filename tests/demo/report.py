"""What the demo has measured, whether it shows what it claims, and the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One deploy. Seconds are from the order to deploy, but `waited`: from asking for the model to having it."""

    origin_bytes: int
    hit: bool
    waited: float
    ready: float
    answered: float


def problems(rows: Sequence[Row], model_bytes: int) -> list[str]:
    """What is untrue of what the demo claims; empty when it holds."""
    found = []
    if len(rows) != 2:
        return [f"There were {len(rows)} deploys, not 2."]
    cold, warm = rows
    if cold.origin_bytes < model_bytes:
        found.append(f"The first deploy fetched {cold.origin_bytes} bytes; the model has {model_bytes}.")
    if cold.hit:
        found.append("The first deploy found the model already cached.")
    if warm.origin_bytes != 0:
        found.append(f"The second deploy fetched {warm.origin_bytes} bytes from the origin, not 0.")
    if not warm.hit:
        found.append("The second deploy was not a hit.")
    for number, row in enumerate(rows, 1):
        if not 0 <= row.waited <= row.ready <= row.answered:
            found.append(f"The times of deploy {number} are out of order: {row}.")
    return found


def show(rows: Sequence[Row], console: Console) -> None:
    table = Table(title="One model, deployed twice with Ray Serve LLM", caption="Origin bytes are counted by a proxy.")
    table.add_column("deploy")
    for heading in ("bytes from the origin", "waited for the model", "model files ready", "application answered"):
        table.add_column(heading, justify="right")
    for number, row in enumerate(rows, 1):
        name = f"{number} ({'warm' if row.hit else 'cold'})"
        seconds = [f"{row.waited:.3f} s", f"{row.ready:.1f} s", f"{row.answered:.1f} s"]
        table.add_row(name, f"{row.origin_bytes:,}", *seconds)
    console.print(table)
