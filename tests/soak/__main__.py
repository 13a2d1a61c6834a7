"""`python -m tests.soak [SECONDS] [--seed N] [--only TRICK]…`: the soak, and a report of it.

Exits with 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import secrets
import signal
import sys

from tests.soak.soak import run
from tests.soak.tricks import tricks

P99_SECONDS = 0.010


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description="A working user among three hostile ones."
    )
    parser.add_argument("seconds", nargs="?", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    names = ["crowd", *(trick.__name__ for trick in tricks())]
    parser.add_argument("--only", action="append", default=[], choices=names, help="this trick; may be given again")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # So that what it started ends with it.
    print(f"soak: {options.seconds:.0f} s, seed {options.seed}", flush=True)
    outcome = run(options.seconds, options.seed, options.only)
    print(outcome.report())
    broken = outcome.broken()
    if outcome.hits["p99"] >= P99_SECONDS:
        broken.append(f"a hit in a hundred of the working user's takes longer than {P99_SECONDS * 1000:.0f} ms")
    print("\n".join(broken) or "every promise was kept")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
