"""Several cases, one after the other, as tables or as one JSON object: what each bench that has some does with them."""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
from collections.abc import Mapping, Sequence
from types import FrameType

from cached import CachedError
from tests.bench.case import Case, LeftOut, Options
from tests.bench.report import Found, as_json, table


def measure(
    cases: Mapping[str, Case], names: Sequence[str], options: Options, in_json: bool
) -> dict[str, Found | None]:
    """Each is shown as soon as it is there; JSON at the end. None for one that failed; the others go on."""
    signal.signal(signal.SIGTERM, _terminated)
    found: dict[str, Found | None] = {}
    for name in names:
        try:
            found[name] = case = cases[name].measure(options)
        except LeftOut as why:
            options.say(f"{name} left out: {why}")
        except (OSError, RuntimeError, AttributeError, CachedError) as error:
            found[name] = None
            options.say(f"{name} failed: {error}")
        else:
            if not in_json:
                print(table(case), flush=True)
    if in_json:
        measured = {name: as_json(case) for name, case in found.items() if case is not None}
        print(json.dumps({"machine": machine(), "cases": measured}, indent=2))
    else:
        print("{cpus} CPUs, Python {python}, Linux {kernel}".format(**machine()))
    return found


def to_stderr(line: str) -> None:
    """For what is no result."""
    print(line, file=sys.stderr, flush=True)


def machine() -> dict[str, object]:
    return {"cpus": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()}


def _terminated(number: int, frame: FrameType | None) -> None:
    """An end like any other: what was written is removed, what was started is ended."""
    sys.exit(128 + number)
