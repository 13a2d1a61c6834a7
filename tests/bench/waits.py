"""How long replicas waited for their model's files: noted by clocks inside of them, read by the bench."""

from __future__ import annotations

import json
import os
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = "BENCH_WAITS"  # The variable that says where to note them.


@dataclass(frozen=True, slots=True)
class Wait:
    """One replica's: seconds since the epoch when its files were ready, and seconds for which it waited for them."""

    at: float
    seconds: float


def note(asked: float) -> None:
    """The files that were asked for then, in seconds since the epoch, are here now."""
    now = time.time()
    fresh = Path(os.environ[FOLDER], f"{uuid.uuid4().hex}.partial")
    fresh.write_text(json.dumps(asdict(Wait(now, now - asked))))
    fresh.rename(fresh.with_suffix(".json"))


def noted(folder: Path) -> list[Wait]:
    return [Wait(**json.loads(path.read_text())) for path in folder.glob("*.json")]
