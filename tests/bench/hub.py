"""`huggingface_hub.snapshot_download` of the same warm model, in a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.bench.callers import percentiles


def time_snapshot_download(
    endpoint: str, home: Path, repo: str, revision: str, rounds: int, offline: bool
) -> dict[str, float]:
    """Percentiles of warm calls from one process, in milliseconds. `offline`: what is on disk, without asking."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    command = [sys.executable, "-m", __spec__.name, repo, revision, str(rounds), *(["--offline"] if offline else [])]
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True, timeout=600)
    return percentiles(json.loads(done.stdout.splitlines()[-1]))


def _main() -> None:
    # Here, because it reads the environment when it is imported, and the parent has no need of it.
    from huggingface_hub import snapshot_download

    parser = argparse.ArgumentParser()
    parser.add_argument("repo")
    parser.add_argument("revision")
    parser.add_argument("rounds", type=int)
    parser.add_argument("--offline", action="store_true")
    given = parser.parse_args()
    for _ in range(3):
        snapshot_download(given.repo, revision=given.revision)
    taken = []
    for _ in range(given.rounds):
        before = time.perf_counter()
        snapshot_download(given.repo, revision=given.revision, local_files_only=given.offline)
        taken.append((time.perf_counter() - before) * 1000)
    print(json.dumps(taken))


if __name__ == "__main__":
    _main()
