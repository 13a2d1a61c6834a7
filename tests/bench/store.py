"""`python -m tests.bench.store`: what the store itself costs, with no network: how it grows, and what checking takes.

Medians over the rounds. Daemons and commands are programs of their own, timed from outside as they are used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tests.bench.case import Case, Options
from tests.bench.cases import measure, to_stderr
from tests.bench.hostile_case import HOSTILE_CASE
from tests.bench.mend_case import MEND_CASE
from tests.bench.scale_case import SCALE_CASE
from tests.bench.scrub_case import SCRUB_CASE

CASES: dict[str, Case] = {case.name: case for case in (SCALE_CASE, SCRUB_CASE, MEND_CASE, HOSTILE_CASE)}


def main(arguments: Sequence[str] | None = None) -> int:
    """1 when a case failed; the others are measured and shown all the same."""
    given = _parse(arguments)
    names = given.case or [name for name, case in CASES.items() if given.all or not case.long]
    found = measure(CASES, names, Options(rounds=given.rounds, say=to_stderr), given.json)
    return int(None in found.values())


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.store", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this one; may be repeated")
    parser.add_argument("--all", action="store_true", help="the ones that take minutes as well")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each; medians are shown")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
