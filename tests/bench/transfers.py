"""`python -m tests.bench.transfers`: a cold model through the daemon beside other clients, in turn, in one run.

The data is random, on tmpfs where there is one; the server is `rclone serve s3` on the same machine. Medians over the
rounds; CPU seconds and memory are the clients' own. Ours includes sha256, XXH3, fsync and publishing; theirs do not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.measure import Cost, pull, run
from tests.bench.peers import Place, available
from tests.bench.picture import picture
from tests.daemon_process import clean_environment
from tests.servers import RcloneS3

MIB = 1 << 20
BUCKET = "models"
CASES: dict[str, tuple[str, Callable[[], list[int]], tuple[str, ...]]] = {
    "large": ("4 files of 512 MiB", lambda: [512 * MIB] * 4, ("s5cmd", "rclone", "boto3", "s3fs", "obstore", "cp")),
    "one": ("one file of 4 GiB", lambda: [4096 * MIB], ("s5cmd", "cp")),
    "small": ("2,000 files of 4 to 64 KiB", lambda: _small(2000), ("s5cmd", "rclone", "s3fs", "cp")),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.transfers", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this one; may be repeated")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each; medians are shown")
    parser.add_argument("--picture", type=Path, help="write the bars of MB/s as SVG there")
    given = parser.parse_args(arguments)
    found: dict[str, Any] = {}
    missing = available()[1]
    if missing:
        print(f"not installed, left out: {', '.join(missing)}", file=sys.stderr)
    for name in given.case or CASES:
        title, sizes, peers = CASES[name]
        with scratch() as folder:
            found[name] = {"title": title, **measure(folder, sizes(), peers, given.rounds)}
        if not given.json:
            print(table(found[name]), flush=True)
    if given.json:
        print(json.dumps(found, indent=2))
    if given.picture:
        given.picture.write_text(picture(found))
    return 0


def _small(count: int) -> list[int]:
    dice = random.Random(1)
    return [dice.randint(4 << 10, 64 << 10) for _ in range(count)]


@contextmanager
def scratch() -> Iterator[Path]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="cached-bench-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def measure(folder: Path, sizes: Sequence[int], peers: Sequence[str], rounds: int) -> dict[str, Any]:
    """Every client by name: MB/s, files/s, CPU seconds per GB and peak bytes; medians, clients taking turns."""
    origin = folder / "origin"
    _write(origin / BUCKET / "model", sizes)
    commands = {name: command for name, command in available()[0].items() if name in peers}
    costs: dict[str, list[Cost]] = {name: [] for name in ("cached", *commands)}
    with RcloneS3(origin, etags=False, listing_seconds=3600) as server:
        place = Place(server.endpoint, BUCKET, "model", origin / BUCKET / "model")
        environment = clean_environment(AWS_REGION="us-east-1", **server.credentials)
        for _ in range(rounds):
            for name, taken in costs.items():
                target = folder / "target"
                target.mkdir()
                try:
                    if name == "cached":
                        own = {**server.credentials}
                        taken.append(pull(target, f"s3://{BUCKET}/model", own, s3_endpoint=server.endpoint))
                    else:
                        taken.append(run(commands[name](place, target), environment))
                finally:
                    shutil.rmtree(target)
    total = sum(sizes)
    return {
        "bytes": total,
        "files": len(sizes),
        "rounds": rounds,
        "clients": {name: _figures(taken, total, len(sizes)) for name, taken in costs.items()},
        "to_s5cmd": _ratios(costs),
    }


def _figures(taken: Sequence[Cost], total: int, files: int) -> dict[str, float]:
    seconds = statistics.median(cost.seconds for cost in taken)
    return {
        "MB_per_s": total / 1e6 / seconds,
        "files_per_s": files / seconds,
        "cpu_s_per_GB": statistics.median(cost.cpu for cost in taken) / (total / 1e9),
        "peak_bytes": max(cost.peak for cost in taken),
        "seconds": seconds,
    }


def _ratios(costs: dict[str, list[Cost]]) -> dict[str, float]:
    """Medians of the ratios in each round: what a noisy machine says most truly."""
    if "s5cmd" not in costs:
        return {}
    pairs = list(zip(costs["cached"], costs["s5cmd"], strict=True))
    return {
        "speed": statistics.median(theirs.seconds / ours.seconds for ours, theirs in pairs),
        "cpu": statistics.median(ours.cpu / theirs.cpu for ours, theirs in pairs),
    }


def _write(folder: Path, sizes: Sequence[int]) -> None:
    """Different bytes in every file and in every piece of it, made quickly."""
    folder.mkdir(parents=True)
    block = os.urandom(MIB)
    for number, size in enumerate(sizes):
        with (folder / f"model-{number:05}.safetensors").open("wb") as file:
            for start in range(0, size, MIB):
                head = f"{number} {start} ".encode()
                file.write((head + block[len(head) :])[: min(MIB, size - start)])


def table(found: dict[str, Any]) -> str:
    lines = [f"{found['title']}, medians of {found['rounds']}"]
    lines.append(f"{'':<12}{'MB/s':>8}{'files/s':>10}{'CPU s/GB':>10}{'peak MB':>9}")
    for name, figures in found["clients"].items():
        peak = figures["peak_bytes"] / 1e6
        lines.append(
            f"{name:<12}{figures['MB_per_s']:>8.0f}{figures['files_per_s']:>10.0f}"
            f"{figures['cpu_s_per_GB']:>10.2f}{peak:>9.0f}"
        )
    if found["to_s5cmd"]:
        ratios = found["to_s5cmd"]
        lines.append(
            f"cached to s5cmd, in each round: {ratios['speed']:.2f} of its speed, {ratios['cpu']:.2f} of its CPU"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
