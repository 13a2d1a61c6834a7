"""`python -m tests.soak.crowd PLAN`: one user after another, each of another uid, is let into the same models."""

from __future__ import annotations

import contextlib
import json
import os

import cached.connection  # noqa: F401  As in working.py.
from cached import CachedError, Client
from tests.soak.plan import CROWD, Plan, become, begin, pauses

MODELS = ("hf://org/shared", "hf://org/open")
EVERY = 0.05
AT_ONCE = 4


def join(plan: Plan, uid: int) -> None:
    with contextlib.suppress(CachedError, OSError), Client(plan.socket, timeout=5) as client:
        become(uid)
        for uri in MODELS:
            client.acquire(uri, timeout=5)


def main() -> None:
    plan, count, running = begin(), 0, 0
    for number in pauses(plan, EVERY):
        pid = os.fork()
        if pid == 0:
            join(plan, CROWD + number)
            os._exit(0)
        count, running = count + 1, running + 1
        if running == AT_ONCE:
            os.wait()
            running -= 1
    print(json.dumps({"tricks": {"crowd": count}, "leaks": []}), flush=True)


if __name__ == "__main__":
    main()
