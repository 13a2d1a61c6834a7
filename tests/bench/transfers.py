"""`python -m tests.bench.transfers`: a cold model through the daemon beside other clients, in turn, in one run.

The data is random, on tmpfs where it has room; the servers are on the same machine. Medians over the rounds; CPU
seconds and memory are the clients' own. Ours includes sha256, XXH3, fsync and publishing; theirs do not. Ours is a
daemon that runs already; theirs are programs from their start to their end, as they are used.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from cached import CachedError
from tests.bench.busy_case import BUSY_CASE
from tests.bench.case import Case, LeftOut, Options
from tests.bench.hub_case import HUB_CASE
from tests.bench.memory_case import MEMORY_CASE
from tests.bench.picture import picture
from tests.bench.report import Found, as_json, table
from tests.bench.resume_case import RESUME_CASE
from tests.bench.s3_cases import S3_CASES
from tests.bench.verify_case import VERIFY_CASE

CASES: dict[str, Case] = {
    case.name: case for case in (*S3_CASES, HUB_CASE, VERIFY_CASE, MEMORY_CASE, RESUME_CASE, BUSY_CASE)
}


def main(arguments: Sequence[str] | None = None) -> int:
    """1 when a case failed; the others are measured and shown all the same."""
    given = _parse(arguments)
    signal.signal(signal.SIGTERM, _terminated)
    options = Options(given.rounds, given.memory_gib, lambda line: print(line, file=sys.stderr, flush=True))
    names = given.case or [name for name, case in CASES.items() if given.all or not case.long]
    found: dict[str, Found] = {}
    failed = False
    for name in names:
        try:
            found[name] = CASES[name].measure(options)
        except LeftOut as why:
            options.say(f"{name} left out: {why}")
        except (OSError, RuntimeError, AttributeError, CachedError) as error:
            failed = True
            options.say(f"{name} failed: {error}")
        else:
            if not given.json:
                print(table(found[name]), flush=True)
    if given.json:
        cases = {name: as_json(case) for name, case in found.items()}
        print(json.dumps({"machine": machine(), "cases": cases}, indent=2))
    else:
        print("{cpus} CPUs, Python {python}, Linux {kernel}".format(**machine()))
    if given.picture:
        given.picture.write_text(picture(list(found.values())))
    return int(failed)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.transfers", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this one; may be repeated")
    parser.add_argument("--all", action="store_true", help="the ones that take minutes as well")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each; medians are shown")
    parser.add_argument("--memory-gib", type=float, default=20.0, help="size of the larger model of `memory`")
    parser.add_argument("--picture", type=Path, help="write bars as SVG there")
    return parser.parse_args(arguments)


def _terminated(number: int, frame: FrameType | None) -> None:
    """An end like any other: what was written is removed, what was started is ended."""
    sys.exit(128 + number)


def machine() -> dict[str, object]:
    return {"cpus": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()}


if __name__ == "__main__":
    sys.exit(main())
