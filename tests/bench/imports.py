"""What `import cached; cached.Client` adds to a bare interpreter."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

BARE = "pass"
CLIENT = "import cached; cached.Client"


def import_cost(place: Path, rounds: int = 21) -> dict[str, float]:
    """Milliseconds from start to end of an interpreter, medians: `bare`, `client`, and their difference `added`.

    The two take turns, so that a slow minute of the machine slows both. Byte code is kept below `place`, as pip keeps
    it for an installed package, whatever this environment says about writing it.
    """
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(place)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    times: dict[str, list[float]] = {BARE: [], CLIENT: []}
    for _ in range(rounds + 1):
        for program, taken in times.items():
            taken.append(_run(program, environment))
    bare, client = (statistics.median(taken[1:]) for taken in times.values())  # The first one compiles.
    return {"bare": bare, "client": client, "added": client - bare}


def _run(program: str, environment: dict[str, str]) -> float:
    """No time-out: with one, subprocess polls for the end in steps as large as what is measured."""
    before = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    return (time.perf_counter() - before) * 1000
