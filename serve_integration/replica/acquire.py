"""Acquire a model from the daemon of this node, in the process that is to hold it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cached import Client, Lease, Progress
from serve_integration.models.model_source import Reference
from serve_integration.settings import Settings

log = logging.getLogger("ray.serve.cached")  # Below Serve's own logger, which has handlers in a replica.
PROGRESS_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Held:
    """One node's copy. `size` in bytes, `seconds` from request to hold; a shared flock on `lock_file` is the hold."""

    path: str
    lock_file: str
    digest: str
    revision: str
    hit: bool
    stale: bool
    size: int
    seconds: float


async def acquire(wanted: Reference, settings: Settings) -> tuple[Held, Lease]:
    """Acquire the model on this node; return the copy and the lease that holds it. Raises the errors of the client."""
    started = time.monotonic()
    lease = await Client(settings.socket).acquire_async(wanted.uri, **options(wanted, settings))
    held = described(lease, started)
    read_ahead(lease, settings)
    return held, lease


def options(wanted: Reference, settings: Settings) -> dict[str, Any]:
    """Return the options for `Client.acquire`."""
    return {
        "revision": wanted.revision,
        "include": wanted.include or settings.include,
        "exclude": settings.exclude,
        "lean": wanted.lean,
        "max_age": settings.max_age,
        "timeout": settings.timeout,
        "require": "llm" if wanted.for_engine else None,
        "progress": Reporter(str(wanted)),
    }


def read_ahead(lease: Lease, settings: Settings) -> None:
    """Start reading the lease's files into memory, while the engine that will load them is still being imported and
    started."""
    if settings.prefetch:
        lease.prefetch(settings.prefetch)


def described(lease: Lease, started: float) -> Held:
    """Return the lease as a Held. `started`: the time of the request, by the monotonic clock."""
    return Held(
        path=lease.path,
        lock_file=lease.lock_file,
        digest=lease.digest,
        revision=lease.revision,
        hit=lease.hit,
        stale=lease.stale,
        size=lease.size,
        seconds=round(time.monotonic() - started, 4),
    )


def line(wanted: Reference, held: Held) -> str:
    """Return the log line of a loaded model, as `name=value` pairs."""
    return (
        f"cached: model={wanted} path={held.path} digest={held.digest} revision={held.revision} "
        f"{'hit' if held.hit else 'miss'} seconds={held.seconds:g} bytes={held.size}"
        f"{' stale' if held.stale else ''}"
    )


class Reporter:
    """Log the progress of a long fetch now and then, so that a starting replica does not look stuck."""

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
