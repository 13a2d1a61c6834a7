"""`make faults`: every fault that is injected, and a table of faults and invariants."""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from fnmatch import fnmatchcase
from pathlib import Path

from tests.faults.points import INVARIANTS, Tally
from tests.faults.roots import remove_root
from tests.faults.suite import Context
from tests.faults.suites import SUITES
from tests.programs import missing


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--every", type=int, default=1, metavar="K", help="every K-th point, and each kind of call")
    parser.add_argument(
        "--only", "--case", nargs="*", default=["*"], metavar="GLOB", help="names of suites, as 'KILL *' or pressure"
    )
    parser.add_argument("--minutes", type=float, default=1.0, help="how long the pressure goes on")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes at once")
    given = parser.parse_args()
    if absent := missing():
        parser.error(f"install {', '.join(absent)} first: `python -m tests.programs` does where it may")
    tallies, seconds = _run(given)
    violations = [str(violation) for tally in tallies for violation in tally.violations]
    if given.json:
        print(json.dumps({"suites": [tally.as_json() for tally in tallies], "violations": violations}, indent=1))
    else:
        print(table(tallies))
        print("\n".join([*violations, f"{totals(tallies)} in {seconds:.0f} s"]))
    return 1 if violations or not tallies else 0


def _run(given: argparse.Namespace) -> tuple[list[Tally], float]:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # So that what is below cleans up.
    logging.disable(logging.CRITICAL)  # What the store says of thousands of faults is of no use here.
    gc.collect()
    gc.freeze()  # Thousands of forks need not copy what nobody changes.
    started = time.monotonic()
    folder = _folder()
    tallies = []
    try:
        for suite in SUITES:
            if any(fnmatchcase(suite.name, pattern) for pattern in given.only):
                before = time.monotonic()
                tallies.append(suite.run(Context(folder, given.workers, given.every, given.minutes)))
                _progress(tallies[-1], time.monotonic() - before)
    finally:
        remove_root(folder)
        shutil.rmtree(folder, ignore_errors=True)
    return tallies, time.monotonic() - started


def _folder() -> Path:
    """In memory, if that can be; what a run that was killed left there goes first."""
    memory = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())
    for old in memory.glob("cached-faults-*"):
        if not Path("/proc", old.name.rpartition("-")[2]).exists():
            remove_root(old)
    folder = memory / f"cached-faults-{os.getpid()}"
    folder.mkdir()
    return folder


def _progress(tally: Tally, seconds: float) -> None:
    line = f"{tally.row} {tally.name}: {tally.points} points, {len(tally.violations)} violations, {seconds:.1f} s"
    print(line, file=sys.stderr, flush=True)


def table(tallies: list[Tally]) -> str:
    """Faults by invariants: how often each was broken."""
    head = ["", "suite", "points", *INVARIANTS]
    rows = [[t.row, t.name, str(t.points), *(str(t.count(each) or "·") for each in INVARIANTS)] for t in tallies]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [
            cell.ljust(w) if column < 2 else cell.rjust(w)
            for column, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def totals(tallies: list[Tally]) -> str:
    units: dict[str, int] = {}
    for tally in tallies:
        units[tally.unit] = units.get(tally.unit, 0) + tally.points
    counted = ", ".join(f"{count:,} {unit}" for unit, count in units.items())
    return f"{counted}, {sum(len(tally.violations) for tally in tallies)} violations"


if __name__ == "__main__":
    sys.exit(main())
