"""`python -m tests.soak.crowd PLAN`: one user after another, each of another uid, is let into the same models."""

from __future__ import annotations

import json
import os
from collections import Counter

import cached.client.connection  # noqa: F401  As in working.py.
from cached import CachedError, Client
from cached.errors import BY_CODE
from tests.soak.plan import CROWD, Plan, become, begin, pauses

MODELS = ("hf://org/shared", "hf://org/open")
EVERY = 0.05
AT_ONCE = 4
LET_IN, CUT = "let in", "cut"
OUTCOMES = (LET_IN, CUT, *sorted(BY_CODE))  # By exit code.
WRONG = (
    "store_degraded",
    "no_space",
    "source_denied",
    "failed",
)  # What no one is to hear who may read a model of a sound store.


def join(plan: Plan, uid: int) -> int:
    """How it went, as an exit code."""
    try:
        with Client(plan.socket, timeout=5) as client:
            become(uid)
            for uri in MODELS:
                client.acquire(uri, timeout=5)
    except CachedError as error:
        return OUTCOMES.index(error.code)
    except OSError:
        return OUTCOMES.index(CUT)
    return OUTCOMES.index(LET_IN)


def main() -> None:
    plan, running, codes = begin(), 0, Counter[str]()
    for number in pauses(plan, EVERY):
        if os.fork() == 0:
            os._exit(join(plan, CROWD + number))
        running += 1
        if running == AT_ONCE:
            codes[OUTCOMES[os.waitstatus_to_exitcode(os.wait()[1])]] += 1
            running -= 1
    troubles = [f"{codes[code]} of the many users of a model were told {code}" for code in WRONG if codes[code]]
    tried = {f"crowd ({code})": count for code, count in codes.items()}
    print(json.dumps({"tricks": tried, "leaks": [], "troubles": troubles}), flush=True)


if __name__ == "__main__":
    main()
