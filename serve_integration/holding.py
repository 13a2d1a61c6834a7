"""Leases for the life of a replica: in its own process, and in a small actor on every other node that it uses."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cached import CachedError, Client, Lease, Progress, SourceChanged
from serve_integration.reference import Reference
from serve_integration.settings import Settings

log = logging.getLogger("ray.serve.cached")  # Below Serve's own logger, which has handlers in a replica.
PROGRESS_SECONDS = 15.0

# What this process holds, until it ends. Not on the callback: Ray pickles that to other processes, and a lease is here.
_leases: list[Lease] = []
_actors: list[Any] = []


@dataclass(frozen=True, slots=True)
class Held:
    """One node's copy. `size` in bytes, `seconds` from asking to holding."""

    path: str
    digest: str
    revision: str
    hit: bool
    stale: bool
    size: int
    seconds: float


class NodeHolder:
    """An actor that holds the model on a node where no other process of ours outlives loading it."""

    async def hold(self, wanted: Reference, settings: Settings) -> Held | CachedError:
        """The error as a value: raised, it would arrive wrapped in one of Ray's."""
        try:
            held, lease = await _acquire(wanted, settings)
        except CachedError as error:
            return error
        while _leases:  # Asked again: what the first answer named is not what the replica uses.
            _leases.pop().release()
        _leases.append(lease)
        make_torch_kernels()
        return held


async def hold(wanted: Reference, settings: Settings, other_nodes: Sequence[str], runtime_env: Any) -> Held:
    """Hold the model here and on the other nodes, at one path, until this process ends. On an error nothing is held."""
    actors = [_start(node, runtime_env) for node in other_nodes]
    leases: list[Lease] = []
    try:
        held = await _hold_everywhere(wanted, settings, actors, leases)
        if len({copy.digest for copy in held}) > 1:  # A moving name, asked at different times: ask all of them now.
            held = await _hold_everywhere(wanted, replace(settings, max_age=0), actors, leases)
            leases.pop(0).release()
        _check(wanted, held)
    except BaseException:
        for lease in leases:
            lease.release()
        for actor in actors:
            ray.kill(actor)
        raise
    _leases.extend(leases)
    _actors.extend(actors)
    return held[0]


def _start(node: str, runtime_env: Any) -> Any:
    strategy = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    options = {"num_cpus": 0, "scheduling_strategy": strategy, "runtime_env": runtime_env}
    return ray.remote(NodeHolder).options(**options).remote()


async def _hold_everywhere(
    wanted: Reference, settings: Settings, actors: Sequence[Any], leases: list[Lease]
) -> list[Held]:
    """This node's copy first, whose lease goes to `leases`."""
    answers = [asyncio.ensure_future(_remote(actor.hold.remote(wanted, settings))) for actor in actors]
    try:
        held, lease = await _acquire(wanted, settings)
        leases.append(lease)
        others = await asyncio.gather(*answers)
    finally:
        for answer in answers:
            answer.cancel()
    copies = [held]
    for other in others:
        if isinstance(other, CachedError):
            raise other
        copies.append(other)
    return copies


async def _remote(answer: Any) -> Held | CachedError:
    result: Held | CachedError = await answer
    return result


def _check(wanted: Reference, held: Sequence[Held]) -> None:
    if len({copy.digest for copy in held}) > 1:
        raise SourceChanged(f"{wanted} changed while the replica's nodes were fetching it; start the replica again.")
    paths = sorted({copy.path for copy in held})
    if len(paths) > 1:
        raise CachedError(
            f"The nodes of the replica keep {wanted} at {' and '.join(paths)}; give every daemon the same root."
        )


async def _acquire(wanted: Reference, settings: Settings) -> tuple[Held, Lease]:
    started = time.monotonic()
    lease = await Client(settings.socket).acquire_async(
        wanted.uri,
        revision=wanted.revision,
        include=settings.include,
        exclude=settings.exclude,
        max_age=settings.max_age,
        timeout=settings.timeout,
        require="llm",
        progress=_Reporter(str(wanted)),
    )
    seconds = round(time.monotonic() - started, 4)
    held = Held(lease.path, lease.digest, lease.revision, lease.hit, lease.stale, lease.size, seconds)
    return held, lease


class _Reporter:
    """Says now and then how far a long fetch is, so that a starting replica does not look stuck."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._spoke = clock()

    def __call__(self, progress: Progress) -> None:
        if self._clock() - self._spoke >= PROGRESS_SECONDS:
            self._spoke = self._clock()
            done, total = progress.done_bytes, progress.total_bytes
            log.info("cached: %s is %s: %d of %d bytes", self._name, progress.phase, done, total)


def make_torch_kernels() -> None:
    """Make the folder that Ray's own node initialisation makes: torch cannot create it when its parent is missing."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    home = os.environ.get("TORCH_HOME") or os.path.join(cache, "torch")
    os.makedirs(os.path.join(os.path.expanduser(home), "kernels"), exist_ok=True)
