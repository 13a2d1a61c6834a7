"""`python -m tests.bench.loading`: how fast an engine loads a model that the node holds.

One model of random weights, made for the run, in the store of a real daemon on a real disk, and its files a second time
outside it. "Cold" is with none of its weights in the page cache, which is looked at each time.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.bench.case import Case, Options
from tests.bench.cases import measure, to_stderr
from tests.bench.loading_cases import Node, engine_starts, same_as_a_copy, strategies
from tests.bench.read_ahead import LINUX_KIB, device_with_read_ahead, read_ahead_kib
from tests.bench.report import Found
from tests.daemon_process import DaemonProcess
from tests.demo.llama import make_llama
from tests.page_cache import on_a_disk

CASES: dict[str, Callable[[Node, Options], Found]] = {
    "engine": engine_starts,
    "strategies": strategies,
    "copy": same_as_a_copy,
}
ON_LINUX_DEFAULTS = ("engine", "strategies")
HIDDEN, LAYER_GIB, SHARD = 4096, 0.25, 512 << 20


def main(arguments: Sequence[str] | None = None) -> int:
    """1 when a case failed; the others are measured and shown all the same."""
    given = _parse(arguments)
    with on_a_disk() as folder:
        to_stderr("Making a Llama with random weights …")
        model = make_llama(folder / "model", hidden=HIDDEN, layers=math.ceil(given.size / LAYER_GIB), shard=SHARD)
        with node(folder / "node", model) as here:
            cases = {name: Case(name, partial(measured, here)) for name, measured in CASES.items()}
            if read_ahead_kib(folder) != LINUX_KIB:
                for name in ON_LINUX_DEFAULTS:
                    title = f"{name}-{LINUX_KIB}k"
                    long = name == "strategies"
                    cases[title] = Case(title, partial(_on_linux_defaults, folder, model, CASES[name]), long)
            options = Options(rounds=given.rounds, say=to_stderr)
            usual = [name for name, case in cases.items() if given.all or not case.long]
            names = [name for name in given.case or usual if name in cases]
            found = measure(cases, names, options, given.json)
    return int(None in found.values())


@contextmanager
def node(folder: Path, model: Path) -> Iterator[Node]:
    """A daemon whose root is below `folder`, and which holds the model."""
    daemon = DaemonProcess(folder, protocols=["file"], file_roots=[str(model.parent)])
    try:
        daemon.start()
        with daemon.client() as client:
            held = client.pull(f"file://{model}", require="llm")
        yield Node(f"file://{model}", str(daemon.socket), Path(held.path), model)
    finally:
        daemon.stop()
        daemon.close()


def _on_linux_defaults(
    folder: Path, model: Path, measured: Callable[[Node, Options], Found], options: Options
) -> Found:
    """The same on a device that reads ahead as little as Linux has it by default."""
    size = sum(path.stat().st_size for path in model.iterdir())
    device = device_with_read_ahead(folder / "device", size + (1 << 30), LINUX_KIB)
    with device as place, node(place / "node", model) as there:
        return measured(there, options)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.loading", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    names = [*CASES, *(f"{name}-{LINUX_KIB}k" for name in ON_LINUX_DEFAULTS)]
    parser.add_argument("--case", action="append", choices=names, help="only this one; may be repeated")
    parser.add_argument("--all", action="store_true", help="the ones that take minutes as well")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each; medians are shown")
    parser.add_argument("--size", type=float, default=2.25, help="GiB of the model, in steps of 0.25")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
