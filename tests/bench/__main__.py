"""`make bench`: hits through the daemon beside warm calls of huggingface_hub, from one stub of the Hub, in one run."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.callers import time_hits
from tests.bench.hub import time_snapshot_download
from tests.bench.imports import import_cost
from tests.daemon_process import DaemonProcess
from tests.servers import HubStub

REPO = "bench/llama"
SHARD_BYTES = 8 << 20
CALLERS = 32
SETTLE_SECONDS = 3.0  # Longer than the daemon's own clocks tick, so that what is read is the idle state.


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measurement; medians are shown")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cached-bench-") as folder, HubStub() as hub:
        found = measure(Path(folder), hub, given.rounds)
    print(json.dumps(found, indent=2) if given.json else table(found))
    return 0


def measure(
    folder: Path, hub: HubStub, rounds: int, hits: int = 2000, callers: int = CALLERS, settle: float = SETTLE_SECONDS
) -> dict[str, Any]:
    """Everything, in milliseconds and bytes. The model: four shards and five small files, on `main` and at a commit.

    One caller makes `hits` hits in a round, and many make as many between them, but no fewer than 20 each.
    """
    each = max(20, hits // callers)
    commit = hub.add_commit(REPO, _model())
    daemon = DaemonProcess(folder / "daemon", hub_endpoint=hub.endpoint, max_age=3600)
    try:
        daemon.start()
        socket, uri = str(daemon.socket), f"hf://{REPO}"
        with daemon.client() as client:
            client.pull(uri, revision=commit)
            client.pull(uri, revision="main")
        daemon.stop()
        daemon.start()
        resident, workers = _idle_bytes(daemon, settle), sum(map(_own_bytes, daemon.workers()))
        hub.reset()
        times = {
            "commit, 1 caller": _median(rounds, lambda: time_hits(socket, uri, commit, 1, hits)),
            "branch, 1 caller": _median(rounds, lambda: time_hits(socket, uri, "main", 1, hits)),
            f"commit, {callers} callers at once": _median(
                rounds, lambda: time_hits(socket, uri, commit, callers, each)
            ),
        }
        requests = len(hub.requests)
        after = _idle_bytes(daemon, settle)
    finally:
        daemon.close()
    return {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()},
        "cached": times,
        "origin_requests_of_all_hits": requests,
        "huggingface_hub": _hub(folder, hub, commit, rounds),
        "daemon_resident_bytes": {"idle": resident, "idle_after_the_hits": after},
        "workers_bytes": workers,
        "import_ms": import_cost(folder / "bytecode", rounds * 4),
    }


def _hub(folder: Path, hub: HubStub, commit: str, rounds: int) -> dict[str, dict[str, float]]:
    def timed(revision: str, offline: bool) -> Callable[[], dict[str, float]]:
        return lambda: time_snapshot_download(hub.endpoint, folder / "hf", REPO, revision, 50, offline)

    return {
        "commit, 1 caller": _median(rounds, timed(commit, False)),
        "branch, 1 caller": _median(rounds, timed("main", False)),
        "commit, 1 caller, local_files_only": _median(rounds, timed(commit, True)),
    }


def _model() -> dict[str, bytes]:
    shards = {f"model-{number:05}-of-00004.safetensors": os.urandom(SHARD_BYTES) for number in range(1, 5)}
    small = ("config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer.json", "README.md")
    return {**shards, **{name: name.encode() * 50 for name in small}}


def _median(rounds: int, measured: Callable[[], dict[str, float]]) -> dict[str, float]:
    """The median of each figure over the rounds."""
    found = [measured() for _ in range(rounds)]
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


def _idle_bytes(daemon: DaemonProcess, settle: float) -> int:
    assert daemon.process
    time.sleep(settle)
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


def _own_bytes(pid: int) -> int:
    """Resident, what several processes share counted in equal parts."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))


def table(found: dict[str, Any]) -> str:
    lines = [f"{'warm model':<56}{'p50 ms':>10}{'p99 ms':>10}"]
    for what, program in (("cached", "Client.acquire + lease"), ("huggingface_hub", "snapshot_download")):
        for case, times in found[what].items():
            lines.append(f"{f'{program}, {case}':<56}{times['p50']:>10.2f}{times['p99']:>10.2f}")
    resident, cost = found["daemon_resident_bytes"], found["import_ms"]
    lines += [
        "",
        f"requests that the origin saw during all hits of cached   {found['origin_requests_of_all_hits']}",
        f"daemon resident, idle                                    {resident['idle'] / 1e6:.0f} MB",
        f"daemon resident, idle after the hits                     {resident['idle_after_the_hits'] / 1e6:.0f} MB",
        f"its workers, idle, shared memory counted once            {found['workers_bytes'] / 1e6:.0f} MB",
        f"import cached; cached.Client                             {cost['added']:.0f} ms more than a bare interpreter",
        "",
        "{cpus} CPUs, Python {python}, Linux {kernel}".format(**found["machine"]),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
