"""The working user.

`python -m tests.soak.working PLAN base` fetches its models; `… hits` takes them again and again, and measures how long
that takes; `… pulls` asks for new ones, and holds the last few. Each says at its end, in one line of JSON, how it went.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from array import array
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import Any

import cached.client.connection
import cached.client.replies  # noqa: F401  Imported before it is another user, for whom these files may be out of reach.
from cached import CachedError, Client, Lease, NotCached
from tests.soak.plan import BASE, WORKING, Plan, become, begin, content, pauses

PAUSE = 0.004  # Seconds between two hits: a busy user, not a load generator.
HELD = 3  # Leases of new models that are kept.
PATIENCE = 60.0


def right(lease: Lease, uri: str) -> bool:
    """Whether it is the model that was asked for."""
    return Path(lease.path, "model.safetensors").read_bytes() == content(uri)


def fetch_base(plan: Plan) -> dict[str, Any]:
    with Client(plan.socket) as client:
        return {uri: client.pull(uri, timeout=PATIENCE).digest for uri in BASE}


def hits(plan: Plan) -> dict[str, Any]:
    took, troubles = array("d"), Counter[str]()
    with Client(plan.socket) as client:
        for number, uri in enumerate(cycle(BASE)):
            if plan.over:
                break
            begun = time.perf_counter()
            try:
                lease = client.acquire(uri, timeout=PATIENCE)
                lease.release()
                took.append(time.perf_counter() - begun)
                if not lease.hit:
                    troubles[f"had to be fetched again: {uri}"] += 1
                if number % 50 < len(BASE) and not right(lease, uri):
                    troubles[f"was another model: {uri}"] += 1
            except (CachedError, OSError) as error:
                troubles[f"{type(error).__name__}: {error}"] += 1
            time.sleep(PAUSE)
        lost = missing(client, BASE)
    cuts = statistics.quantiles(took, n=1000) if len(took) > 1 else [0.0] * 999
    figures = {"hits": len(took), "p50": cuts[499], "p99": cuts[989], "p999": cuts[998], "max": max(took, default=0.0)}
    return {**figures, "troubles": troubles, "lost": lost}


def pulls(plan: Plan) -> dict[str, Any]:
    asked, arrived, slowest = [], [], 0.0
    troubles, held = Counter[str](), list[Lease]()
    with Client(plan.socket) as client:
        for _, uri in zip(pauses(plan, plan.every), plan.new_models, strict=False):
            asked.append(uri)
            begun = time.monotonic()
            try:
                held.append(client.acquire(uri, timeout=PATIENCE))
                arrived.append(uri)
                if not right(held[-1], uri):
                    troubles[f"was another model: {uri}"] += 1
            except (CachedError, OSError) as error:
                troubles[f"{type(error).__name__}: {error}"] += 1
            slowest = max(slowest, time.monotonic() - begun)
            if len(held) > HELD:
                held.pop(0).release()
        lost = missing(client, arrived)
    return {"asked": len(asked), "arrived": len(arrived), "slowest": slowest, "troubles": troubles, "lost": lost}


def missing(client: Client, uris: list[str] | tuple[str, ...]) -> list[str]:
    """Those that are no longer here."""
    lost = []
    for uri in uris:
        try:
            client.path(uri)
        except NotCached:
            lost.append(uri)
    return lost


def main() -> None:
    plan, role = begin(), sys.argv[2]
    become(WORKING)
    print(json.dumps({"base": fetch_base, "hits": hits, "pulls": pulls}[role](plan)), flush=True)


if __name__ == "__main__":
    main()
