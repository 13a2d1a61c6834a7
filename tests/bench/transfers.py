"""`python -m tests.bench.transfers`: a cold model through the daemon beside other clients, in turn, in one run.

The data is random, on tmpfs where it has room; the servers are on the same machine. Medians over the rounds; CPU
seconds and memory are the clients' own. Ours includes sha256, XXH3, fsync and publishing; theirs do not. Ours is a
daemon that runs already; theirs are programs from their start to their end, as they are used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.busy_case import BUSY_CASE
from tests.bench.case import Case, Options
from tests.bench.cases import measure, to_stderr
from tests.bench.hub_case import HUB_CASE
from tests.bench.memory_case import MEMORY_CASE
from tests.bench.picture import picture
from tests.bench.resume_case import RESUME_CASE
from tests.bench.s3_cases import S3_CASES
from tests.bench.verify_case import VERIFY_CASES

CASES: dict[str, Case] = {
    case.name: case for case in (*S3_CASES, HUB_CASE, *VERIFY_CASES, MEMORY_CASE, RESUME_CASE, BUSY_CASE)
}


def main(arguments: Sequence[str] | None = None) -> int:
    """1 when a case failed; the others are measured and shown all the same."""
    given = _parse(arguments)
    options = Options(rounds=given.rounds, memory_gib=given.memory_gib, say=to_stderr)
    names = given.case or [name for name, case in CASES.items() if given.all or not case.long]
    found = measure(CASES, names, options, given.json)
    done = [case for case in found.values() if case is not None]
    if given.picture:
        given.picture.write_text(picture(done))
    return int(len(done) < len(found))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.transfers", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this one; may be repeated")
    parser.add_argument("--all", action="store_true", help="the ones that take minutes as well")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each; medians are shown")
    parser.add_argument("--memory-gib", type=float, default=20.0, help="size of the larger model of `memory`")
    parser.add_argument("--picture", type=Path, help="write bars as SVG there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
