"""Whole engine starts with and without reading ahead; vLLM's ways of loading; the cache's path beside a plain copy."""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.case import Options
from tests.bench.read_ahead import read_ahead_kib
from tests.bench.report import Found
from tests.daemon_process import clean_environment
from tests.page_cache import forget_all

FOLDER = Path(__file__).parents[2]
SHARE = "0.5"
FILLS, PAIRS = 8, 8  # How often the page cache is filled anew, and loads from either place each time.
TIMEOUT = 400
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
# What they are called in a table, and to the program.
WAYS = {
    "vLLM's default": "default",
    "the same, read ahead from its start on": "ahead",
    "prefetch": "prefetch",
    "eager": "eager",
    "enable_multithread_load": "multithread",
    "runai_streamer": "runai_streamer",
}


@dataclass(frozen=True, slots=True)
class Node:
    """Where one model is: for a client, in the store, and its files outside it."""

    uri: str
    socket: str
    held: Path
    copy: Path

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in weights(self.held))

    def title(self, what: str) -> str:
        return f"{what}; {self.size:,} bytes, device read-ahead {read_ahead_kib(self.held)} KiB"


def engine_starts(node: Node, options: Options) -> Found:
    """From holding the model until vLLM is ready, its weights not in the page cache."""
    ways = {"without reading ahead": "0", "read ahead": SHARE}
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for number in range(options.rounds):
        for name, share in ways.items() if number % 2 else reversed(ways.items()):
            options.say(f"An engine, {name} …")
            forget_all(weights(node.held))
            taken[name].append(_program("engine_start", node.socket, node.uri, share))
    found = Found(node.title("An engine on a cold page cache"), options.rounds, {}, place="disk")
    found.rows = {name: _medians(each) for name, each in taken.items()}
    without, ahead = (taken[name] for name in ways)
    for figure, what in (("weights_s", "loading its weights"), ("start_s", "the whole start")):
        found.notes[f"read ahead to without, {what}"] = _ratio(without, ahead, figure)
    found.notes["GB that had been read ahead"] = statistics.median(each["ahead"] for each in ahead) / 1e9
    for row in found.rows.values():
        del row["ahead"]
    return found


def strategies(node: Node, options: Options) -> Found:
    """The weights alone, in each way that vLLM has for local safetensors."""
    ways = {name: way for name, way in WAYS.items() if way != "runai_streamer" or _is_installed("runai_model_streamer")}
    cold = [[way, str(node.held), True] for way in ways.values()]
    warm = [[way, str(node.held), False] for way in ways.values()]
    taken = _program("load_weights", json.dumps({"rounds": options.rounds, "loads": cold}))
    again = _program("load_weights", json.dumps({"rounds": options.rounds, "unmeasured": 1, "loads": warm}))
    found = Found(node.title("Weights alone, vLLM's ways of loading"), options.rounds, {}, place="disk")
    for name, first, second in zip(ways, taken, again, strict=True):
        row = {f"cold_{figure}": value for figure, value in _medians(first).items()}
        found.rows[name] = {**row, **{f"warm_{figure}": value for figure, value in _medians(second).items()}}
    return found


def same_as_a_copy(node: Node, options: Options) -> Found:
    """The weights alone from memory, out of the store and out of a plain copy of the files, in turn.

    Where in memory pages come to lie is luck, and worth more than what is looked for: so they are read in anew time and
    again, now the one's first and now the other's.
    """
    took: dict[Path, list[dict[str, float]]] = {node.held: [], node.copy: []}
    for number in range(FILLS):
        for folder in took:
            forget_all(weights(folder))
        order = list(took) if number % 2 else list(reversed(took))
        loads = [["default", str(folder), False] for folder in order]
        times = _program("load_weights", json.dumps({"rounds": PAIRS, "unmeasured": 2, "loads": loads}))
        for folder, each in zip(order, times, strict=True):
            took[folder] += each
    ours, plain = took[node.held], took[node.copy]
    found = Found(node.title("Weights alone, in the page cache"), FILLS * PAIRS, {}, place="disk")
    for name, taken in (("from the cache's path", ours), ("from a plain copy", plain)):
        found.rows[name] = {f"warm_{figure}": value for figure, value in _medians(taken).items()}
    found.notes["the cache's path to a plain copy, time"] = _ratio(plain, ours, "seconds")
    found.notes["the cache's path to a plain copy, CPU"] = _ratio(plain, ours, "cpu")
    return found


def weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _program(name: str, *arguments: str) -> Any:
    """What it says on its last line. RuntimeError when it fails, or takes too long."""
    command = [sys.executable, "-m", f"tests.bench.programs.{name}", *arguments]
    environment = clean_environment(**ENVIRONMENT)
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=environment, cwd=FOLDER)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{name} took more than {TIMEOUT} s") from error
    if ran.returncode:
        raise RuntimeError(f"{name}: {ran.stderr[-1500:]}")
    return json.loads(ran.stdout.splitlines()[-1])


def _medians(taken: Sequence[dict[str, float]]) -> dict[str, float]:
    return {figure: statistics.median(each[figure] for each in taken) for figure in taken[0]}


def _ratio(base: Sequence[dict[str, float]], other: Sequence[dict[str, float]], figure: str) -> float:
    """The median of the ratios in each round: what a noisy machine says most truly."""
    return statistics.median(there[figure] / here[figure] for here, there in zip(base, other, strict=True))


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
