"""Every call of every scenario, struck in turn."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import replace

from tests.faults.errors import FAULTS, Fault, halves
from tests.faults.points import RULE, Finding, Point, Tally
from tests.faults.scenarios import SCENARIOS, Scenario
from tests.faults.spread import spread
from tests.faults.strace import Call, calls
from tests.faults.suite import Context, Suite
from tests.faults.sweep import Bench, Ran, lease, run, try_fault

_SYNCED = re.compile(r"\d+<(.*)>\Z")
# The 256 folders of blobs/ are made, opened and closed one like the other: of these calls one in so many is struck.
_PREFIX = re.compile(r"/blobs/[0-9a-f]{2}[\">]")
_EACH = 64

_NEVER = 9_999  # More calls of one name than any run makes.


def sweep(scenario: Scenario, fault: Fault, context: Context) -> Tally:
    """Each call that this fault can strike; last, one call too far, which leaves the run untouched."""
    bench = context.bench
    sparse = replace(context, every=context.every * fault.every)
    points = sparse.some(list(_points(scenario, fault, _watched(bench, scenario))), lambda point: point.call)
    points.append(Point(scenario.name, fault.name, _NEVER, "openat"))
    tally = Tally(fault.row, f"{fault.name} {scenario.name}", fault.unit)
    strike = functools.partial(_strike, bench, scenario, fault, points[-1])
    for point, found in zip(points, spread(points, strike, context.workers), strict=True):
        tally.add(point, found)
    return tally


def halving(scenario: Scenario, context: Context) -> Tally:
    """Short reads and writes of our own code."""
    bench = context.bench
    with bench.copy(scenario) as root, lease(root):
        made = [about for kind, about in run(bench, scenario, root, None, halves(0)).said if kind == "call"]
    points = [Point(scenario.name, "HALF", nth, name) for nth, name in enumerate(made, 1)]
    points = context.some(points, lambda point: point.call)
    tally = Tally("F5", f"HALF {scenario.name}", "errors")

    def strike(point: Point) -> list[Finding]:
        return try_fault(bench, scenario, None, halves(point.nth))[1]

    for point, found in zip(points, spread(points, strike, context.workers), strict=True):
        tally.add(point, found)
    return tally


def _watched(bench: Bench, scenario: Scenario) -> list[Call]:
    """The calls on the root that an undisturbed run makes."""
    with bench.copy(scenario) as root, lease(root):
        ran = run(bench, scenario, root, ())
        if ran.code or ran.found:
            raise RuntimeError(f"{scenario.name} fails undisturbed: {ran}")
        return [call for call in calls(ran.log) if f"{root}" in call.arguments]


def _points(scenario: Scenario, fault: Fault, watched: list[Call]) -> Iterator[Point]:
    prefixes: dict[str, int] = {}
    for call in watched:
        if fault.may_strike(call):
            if _PREFIX.search(call.arguments):
                prefixes[call.name] = prefixes.get(call.name, 0) + 1
            if not _PREFIX.search(call.arguments) or prefixes[call.name] % _EACH == 1:
                yield Point(scenario.name, fault.name, call.nth, call.name)


def _strike(bench: Bench, scenario: Scenario, fault: Fault, last: Point, point: Point) -> list[Finding]:
    ran, found = try_fault(bench, scenario, fault.tracing(point.call, point.nth))
    made = calls(ran.log)
    struck = ran.code == -9 if fault.name == "KILL" else any(call.injected for call in made)
    if struck == (point == last):
        found.append(Finding(RULE, "this run made other calls than the one before"))
    return [*found, *_retried(made), *_believed(ran, made)]


def _retried(made: list[Call]) -> Iterator[Finding]:
    """F4: a file whose fsync failed is written anew, under whatever name; it is never synced again and believed."""
    failed: set[str] = set()
    for call in made:
        if call.name in ("unlink", "rename") or (call.name == "openat" and "O_TRUNC" in call.arguments):
            failed = {path for path in failed if f'"{path}"' not in call.arguments}
        if call.name not in ("fsync", "fdatasync") or not (match := _SYNCED.match(call.arguments)):
            continue
        path = match[1]
        if call.injected and call.result.startswith("-1 EIO") and "/ingest/" in path:
            failed.add(path)
        elif path in failed and call.result.startswith("0"):
            yield Finding(RULE, f"the failed fsync of {path.rpartition('/')[2][:20]} was tried again and believed")


def _believed(ran: Ran, made: list[Call]) -> Iterator[Finding]:
    """A transaction whose log could not be synced is not reported, unless it was made again."""
    lost = any(call.injected and call.name in ("fsync", "fdatasync") and "-wal" in call.arguments for call in made)
    kinds = [kind for kind, _ in ran.said]
    if lost and "error" not in kinds and {"ready", "removed"} & set(kinds):
        yield Finding(RULE, "a transaction whose fsync failed was reported as done")


SWEEPS = [
    Suite(fault.row, f"{fault.name} {scenario.name}", functools.partial(sweep, scenario, fault))
    for fault in FAULTS
    for scenario in SCENARIOS.values()
]
HALVES = [Suite("F5", f"HALF {s.name}", functools.partial(halving, s)) for s in SCENARIOS.values()]
