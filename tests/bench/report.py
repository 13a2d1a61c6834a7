"""What a case found, as rows of figures; and those rows as text."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench.measure import Cost

# A figure's name says its unit; here is its column's head and form.
COLUMNS = {
    "MB_per_s": ("MB/s", ".0f"),
    "files_per_s": ("files/s", ".0f"),
    "cpu_s_per_GB": ("CPU s/GB", ".2f"),
    "peak_MB": ("peak MB", ".0f"),
    "seconds": ("s", ".2f"),
    "after_last_byte_ms": ("last byte to answer, ms", ".0f"),
    "fetched_MB": ("fetched MB", ".0f"),
    "p50_ms": ("p50 ms", ".2f"),
    "p99_ms": ("p99 ms", ".2f"),
    "most_ms": ("most ms", ".1f"),
    "hits": ("hits", ".0f"),
    "start_s": ("start s", ".2f"),
    "rebuilt_s": ("without index s", ".2f"),
    "resident_MB": ("resident MB", ".0f"),
    "ls_s": ("ls s", ".2f"),
    "ls_json_s": ("ls --json s", ".2f"),
    "imports_s": ("imports s", ".1f"),
    "weights_s": ("weights s", ".2f"),
    "cold_seconds": ("cold s", ".2f"),
    "cold_cpu": ("CPU s", ".2f"),
    "warm_seconds": ("warm s", ".3f"),
    "warm_cpu": ("CPU s", ".3f"),
    "cpu_s": ("CPU s", ".1f"),
    "waited_s": ("waited for files, s", ".3f"),
    "ready_s": ("files ready after, s", ".1f"),
    "answered_s": ("answered after, s", ".1f"),
    "listings": ("listings", ",.0f"),
    "objects": ("requests for objects", ",.0f"),
    "identities": ("whose keys", ",.0f"),
    "origin_bytes": ("bytes from the origin", ",.0f"),
}


@dataclass(slots=True)
class Found:
    """`rows`: figures by client. `notes`: single figures, each under a sentence that says what it is."""

    title: str
    rounds: int
    rows: dict[str, dict[str, float]]
    notes: dict[str, float] = field(default_factory=dict)
    place: str = "tmpfs"
    failed: dict[str, str] = field(default_factory=dict)

    def bars(self) -> tuple[str, ...]:
        """The figures that its picture compares: how fast, and at what cost."""
        row = next(iter(self.rows.values()), {})
        speed = "files_per_s" if "files_per_s" in row else "MB_per_s"
        return (speed, "cpu_s_per_GB") if "cpu_s_per_GB" in row else ()


def figures(costs: Sequence[Cost], size: int, files: int = 0) -> dict[str, float]:
    """Medians; of memory the most. Files per second only where `files` are many."""
    seconds = statistics.median(cost.seconds for cost in costs)
    found = {"MB_per_s": size / 1e6 / seconds}
    if files >= 100:
        found["files_per_s"] = files / seconds
    found["cpu_s_per_GB"] = statistics.median(cost.cpu for cost in costs) / (size / 1e9)
    found["peak_MB"] = max(cost.peak for cost in costs) / 1e6
    found["seconds"] = seconds
    return found


def beside(costs: Mapping[str, Sequence[Cost]], peer: str) -> dict[str, float]:
    """Medians of the ratios to a peer in each round: what a noisy machine says most truly."""
    if peer not in costs:
        return {}
    pairs = list(zip(costs["cached"], costs[peer], strict=True))
    return {
        f"cached to {peer}, speed": statistics.median(theirs.seconds / ours.seconds for ours, theirs in pairs),
        f"cached to {peer}, CPU": statistics.median(ours.cpu / theirs.cpu for ours, theirs in pairs),
    }


def table(found: Found) -> str:
    columns = [name for name in COLUMNS if any(name in row for row in found.rows.values())]
    widths = [max(9, len(COLUMNS[name][0]) + 2) for name in columns]
    first = max([12, *(len(name) + 1 for name in found.rows)])
    heads = zip(columns, widths, strict=True)
    lines = [f"{found.title}; medians of {found.rounds}, on {found.place}"]
    lines.append(" " * first + "".join(f"{COLUMNS[name][0]:>{width}}" for name, width in heads))
    for client, row in found.rows.items():
        cells = zip(columns, widths, strict=True)
        lines.append(
            f"{client:<{first}}"
            + "".join(f"{format(row[name], COLUMNS[name][1]) if name in row else '':>{width}}" for name, width in cells)
        )
    lines += [f"{what}: {figure:.2f}" for what, figure in found.notes.items()]
    for client, why in found.failed.items():
        lines.append(f"{client} failed and is left out: {why.strip().splitlines()[-1]}")
    return "\n".join([*lines, ""])


def as_json(found: Found) -> dict[str, Any]:
    return {
        "title": found.title,
        "rounds": found.rounds,
        "place": found.place,
        "rows": found.rows,
        "notes": found.notes,
        "failed": found.failed,
    }
