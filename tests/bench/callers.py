"""Callers that time hits: acquire and release, over and over, each in a process of its own."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from cached import Client


def percentiles(milliseconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(milliseconds)
    return {"p50": statistics.median(ordered), "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]}


def time_hits(socket: str, uri: str, revision: str, callers: int, hits: int) -> dict[str, float]:
    """Percentiles over all hits of `callers` processes that start together; each does `hits`, lease included."""
    command = [sys.executable, "-m", __spec__.name, socket, uri, revision, str(hits)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(callers)
    ]
    try:
        for process in processes:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        taken: list[float] = []
        for process in processes:
            taken += json.loads(process.communicate(timeout=300)[0])
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return percentiles(taken)


def _main() -> None:
    """Warm up, say ready, wait for the word, and print the milliseconds of every hit."""
    parser = argparse.ArgumentParser()
    for name in ("socket", "uri", "revision"):
        parser.add_argument(name)
    parser.add_argument("hits", type=int)
    given = parser.parse_args()
    taken = []
    with Client(given.socket, timeout=60) as client:
        for _ in range(20):
            client.acquire(given.uri, revision=given.revision).release()
        print("ready", flush=True)
        sys.stdin.readline()
        for _ in range(given.hits):
            before = time.perf_counter()
            lease = client.acquire(given.uri, revision=given.revision)
            taken.append((time.perf_counter() - before) * 1000)
            if not lease.hit:
                raise SystemExit(f"{given.uri} was fetched again: this is no measurement of a hit")
            lease.release()
    print(json.dumps(taken), flush=True)


if __name__ == "__main__":
    _main()
