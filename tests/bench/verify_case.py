"""What checking costs: ours beside ours with every hash replaced by nothing, which only the bench can do."""

from __future__ import annotations

import statistics
import struct
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.bench.case import Case, Options
from tests.bench.data import MIB, on_tmpfs, scratch, write
from tests.bench.measure import PROGRAMS, Cost, in_turn, pull
from tests.bench.report import Found, figures
from tests.bench.s3_cases import URI, model_folder, s3_server

UNCHECKED = "cached, unchecked"
PACE = 400  # MiB/s: of an origin, or a network, that leaves something of both cores idle.


def _case(name: str, title: str, mib_per_second: int) -> Case:
    sizes = [512 * MIB] * 4

    def measure(options: Options) -> Found:
        with scratch(2 * sum(sizes)) as folder:
            return with_and_without(folder, title, sizes, options, mib_per_second)

    return Case(name, measure)


def with_and_without(
    folder: Path, title: str, sizes: Sequence[int], options: Options, mib_per_second: int = 0
) -> Found:
    total, stamp = sum(sizes), folder / "stamp"
    after: dict[str, list[float]] = {"cached": [], UNCHECKED: []}
    write(model_folder(folder), sizes)
    with s3_server(folder, mib_per_second) as server:

        def ours(name: str, target: Path) -> Cost:
            kind = "checked" if name == "cached" else "unchecked"
            prefix = (sys.executable, str(PROGRAMS / "launcher.py"), str(stamp), kind)
            cost = pull(target, URI, total, server.credentials, prefix, s3_endpoint=server.endpoint)
            (landed,) = struct.unpack("d", stamp.read_bytes())
            after[name].append((cost.ended - landed) * 1000)
            return cost

        clients = {name: partial(ours, name) for name in after}
        costs = in_turn(folder, options.rounds, clients, lambda name, why: _cannot(why))
    found = Found(title, options.rounds, {}, place="tmpfs" if on_tmpfs(folder) else "disk")
    for name, taken in costs.items():
        found.rows[name] = {**figures(taken, total), "after_last_byte_ms": statistics.median(after[name])}
    pairs = list(zip(costs["cached"], costs[UNCHECKED], strict=True))
    found.notes = {
        "checking adds, % of the time": _more([(ours.seconds, theirs.seconds) for ours, theirs in pairs]),
        "checking adds, % of the CPU": _more([(ours.cpu, theirs.cpu) for ours, theirs in pairs]),
    }
    return found


def _cannot(why: str) -> None:
    raise RuntimeError(f"the launcher no longer fits the daemon: {why}")


def _more(pairs: Sequence[tuple[float, float]]) -> float:
    return (statistics.median(ours / theirs for ours, theirs in pairs) - 1) * 100


VERIFY_CASES = (
    _case("verify", "S3, 4 files of 512 MiB, with and without checking", 0),
    _case("verify-paced", f"The same from an origin that gives {PACE} MiB/s", PACE),
)
