"""One model from one origin, deployed again and again: as Ray and vLLM load it by themselves, and through the cache."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.case import Options
from tests.bench.data import available_memory
from tests.bench.report import Found
from tests.bench.s3_cases import model_folder
from tests.bench.serve_origins import Origin
from tests.bench.waits import FOLDER, Wait, noted
from tests.daemon_process import DaemonProcess
from tests.demo import leftovers

if TYPE_CHECKING:
    from tests.demo.local_ray import LocalRay

MODEL = "model"
# An engine that warms up quickly and leaves the memory to the others.
LITTLE = {"max_num_seqs": 4, "max_num_batched_tokens": 256, "kv_cache_memory_bytes": 64 << 20}
REPLICA = 2_200_000_000  # Bytes of memory that one takes beside its model: three processes that have imported vLLM.
BESIDE = 2_500_000_000  # And all of Ray that is there once.
ANSWER = 100  # Bytes: fewer are no answer over HTTP, but what a server's own threads write to wake one another.
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Node:
    """What outlives a start: a home with what Ray and vLLM have kept in it, or a daemon."""

    home: Path
    daemon: DaemonProcess | None = None


def deployed(folder: Path, title: str, origin: Origin, options: Options, starts: Mapping[str, int]) -> Found:
    """Rows of medians: of each way, each start with so many replicas. In every round both ways begin on an empty node,
    and each start finds what the one before it has left there. RuntimeError when a deploy fails, or has no memory.
    """
    _check_memory(max(starts.values()), sum(path.stat().st_size for path in model_folder(folder).iterdir()))
    taken: dict[str, list[Figures]] = {}
    with _ray() as local:
        for number in range(options.rounds):
            for way in ("Ray's own", "cached"):
                with _node(folder / f"node-{number}", origin, cached=way == "cached") as node:
                    for start, replicas in starts.items():
                        options.say(f"{title}: {way}, {start} …")
                        figures = _deploy(local, node, origin, replicas)
                        taken.setdefault(f"{way}, {start}", []).append(figures)
    return Found(title, options.rounds, {name: _medians(each) for name, each in taken.items()}, place="disk")


def _check_memory(replicas: int, size: int) -> None:
    """Before anything is started: a machine that runs out of memory ends more than this bench."""
    need, there = BESIDE + replicas * (REPLICA + size), available_memory()
    if need > there:
        raise RuntimeError(
            f"{replicas} replicas need about {need / 1e9:.0f} GB of memory and {there / 1e9:.0f} are free: "
            "take fewer with --replicas, or a smaller model with --size"
        )


def _medians(taken: Sequence[Figures]) -> Figures:
    return {name: statistics.median(each[name] for each in taken) for name in taken[0]}


@contextmanager
def _ray() -> Iterator[LocalRay]:
    """Ray Serve, nothing of which stays."""
    from tests.demo.local_ray import LocalRay  # Here, because it imports Ray.

    mark = os.environ[leftovers.MARK] = uuid.uuid4().hex
    folder = Path(tempfile.mkdtemp(prefix="cached-ray-", dir="/tmp"))  # Short: Ray's sockets are below it.
    try:
        # Memory again: Ray need not keep idle workers, and that variable, in whole GiB, would come before LITTLE.
        with LocalRay(folder / "ray", RAY_num_workers_soft_limit="1", VLLM_CPU_KVCACHE_SPACE=None) as local:
            yield local
    finally:
        del os.environ[leftovers.MARK]
        leftovers.end(mark)
        leftovers.remove_tree(folder)


@contextmanager
def _node(folder: Path, origin: Origin, *, cached: bool) -> Iterator[Node]:
    """An empty one, removed afterwards."""
    with ExitStack() as stack:
        folder.mkdir()
        stack.callback(leftovers.remove_tree, folder)
        daemon = None
        if cached:
            daemon = DaemonProcess(folder / "cached", max_age="1h", **origin.settings)
            stack.callback(daemon.close)
            daemon.environment.update(origin.secrets)
            daemon.start()
        yield Node(folder / "home", daemon)


def _deploy(local: LocalRay, node: Node, origin: Origin, replicas: int) -> Figures:
    """Seconds from the order until the last replica's files were ready and until the application answered; for how
    long the one that waited longest for files did; bytes from the origin. The application is deleted again.
    """
    from tests.demo.local_ray import DeployFailed

    waits = node.home / uuid.uuid4().hex
    waits.mkdir(parents=True)
    loaded, sent = len(local.loaded()), origin.sent()
    ordered, started = time.time(), time.monotonic()
    try:
        local.deploy(_application(node, origin, replicas, waits), MODEL)
        local.first_chat(MODEL, MODEL)
        answered = time.monotonic() - started
    except DeployFailed as error:
        raise RuntimeError(str(error)) from error
    finally:
        local.delete(MODEL)
    fetched = origin.sent() - sent
    found = noted(waits) if node.daemon is None else [Wait(log.at, log.seconds) for log in local.loaded()[loaded:]]
    if len(found) != replicas:
        raise RuntimeError(f"{len(found)} replicas have loaded the model, not {replicas}")
    return {
        "waited_s": max(wait.seconds for wait in found),
        "ready_s": max(wait.at for wait in found) - ordered,
        "answered_s": answered,
        "origin_bytes": fetched if fetched >= ANSWER else 0,
    }


def _application(node: Node, origin: Origin, replicas: int, waits: Path) -> Any:
    """The same arguments both ways, but for the clock in Ray's and the socket in ours."""
    from ray.serve.llm import build_openai_app as build_ray_app

    from serve_integration import build_openai_app
    from tests.demo.local_ray import serving_args

    variables = {**origin.variables, "HOME": str(node.home), "HF_HOME": str(node.home / "hf"), FOLDER: str(waits)}
    arguments = serving_args(MODEL, origin.source, runtime_env={"env_vars": variables})
    (config,) = arguments["llm_configs"]
    config["deployment_config"] = {"num_replicas": replicas}
    config["engine_kwargs"] |= LITTLE
    if node.daemon is not None:
        return build_openai_app({**arguments, "cached": {"socket": str(node.daemon.socket), "fallback": "error"}})
    for name, value in origin.clock.items():
        config[name] = {**config.get(name, {}), **value}
    return build_ray_app(arguments)
