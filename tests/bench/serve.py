"""`python -m tests.bench.serve`: Ray Serve LLM with its own loading beside the same through the cache, in one run.

One model of random weights, made for the run, from an S3 server and from a stub of the Hub on this machine; real Ray
Serve, real vLLM, files on the disk. Rows go on from one another: an empty node, the same node again, and then several
replicas on it at once.

waited for files: from asking for the model until having all of it, the longest of the replicas. From S3 that is Ray's
node initialisation, from the Hub vLLM's download of the weights, through the cache what the replica's log says.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from tests.bench.case import Case, Options
from tests.bench.cases import measure, to_stderr
from tests.bench.report import Found
from tests.bench.s3_cases import model_folder
from tests.bench.serve_case import deployed
from tests.bench.serve_origins import Origin, hub_origin, s3_origin
from tests.demo import leftovers
from tests.demo.llama import make_llama

ORIGINS: dict[str, Callable[[Path], AbstractContextManager[Origin]]] = {"s3": s3_origin, "hub": hub_origin}
TITLES = {"s3": "S3", "hub": "Hub"}
HIDDEN = 4096
LAYER_GIB = 0.25  # At this width.
SHARD = 512 << 20


def main(arguments: Sequence[str] | None = None) -> int:
    """1 when a case failed; the others are measured and shown all the same."""
    given = _parse(arguments)
    with _folder() as folder:
        to_stderr("Making a Llama with random weights …")
        make_llama(model_folder(folder), hidden=HIDDEN, layers=math.ceil(given.size / LAYER_GIB), shard=SHARD)
        starts = {"first start": 1, "second start": 1, f"{given.replicas} replicas at once": given.replicas}
        cases = {name: Case(name, partial(_measure, folder, name, starts)) for name in ORIGINS}
        options = Options(rounds=given.rounds, say=to_stderr)
        found = measure(cases, given.only or list(cases), options, given.json)
    return int(None in found.values())


def _measure(folder: Path, name: str, starts: Mapping[str, int], options: Options) -> Found:
    size = sum(path.stat().st_size for path in model_folder(folder).iterdir())
    with ORIGINS[name](folder) as origin:
        return deployed(folder, f"{TITLES[name]}, a model of {size:,} bytes", origin, options, starts)


@contextmanager
def _folder() -> Iterator[Path]:
    """On the disk: the memory is for the engines."""
    folder = Path(tempfile.mkdtemp(prefix="cached-bench-"))
    try:
        yield folder
    finally:
        leftovers.remove_tree(folder)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.serve", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    parser.add_argument("--only", action="append", choices=list(ORIGINS), help="this origin; may be repeated")
    parser.add_argument("--rounds", type=int, default=1, help="rounds of each; medians are shown")
    parser.add_argument("--size", type=float, default=2.0, help="GiB of the model, in steps of 0.25")
    parser.add_argument("--replicas", type=int, default=4, help="how many start at once; each takes 2 GB and the model")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
