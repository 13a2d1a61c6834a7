"""What `import cached; cached.Client` adds to a bare interpreter."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

BARE = "pass"
CLIENT = "import cached; cached.Client"


def import_cost(rounds: int = 21) -> dict[str, float]:
    """Milliseconds from start to end of an interpreter, medians: `bare`, `client`, and their difference `added`.

    The two take turns, so that a slow minute of the machine slows both.
    """
    times: dict[str, list[float]] = {BARE: [], CLIENT: []}
    for _ in range(rounds):
        for program, taken in times.items():
            taken.append(_run(program))
    bare, client = (statistics.median(taken[1:]) for taken in times.values())  # The first one fills the page cache.
    return {"bare": bare, "client": client, "added": client - bare}


def _run(program: str) -> float:
    before = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    return (time.perf_counter() - before) * 1000
