"""Report the cost of each start of a replica: a line in the replica's log, and metrics beside Serve's own."""

from __future__ import annotations

from functools import cache
from typing import Any

from ray.serve.metrics import Counter, Gauge

from serve_integration.models.model_source import Reference
from serve_integration.replica.acquire import Held, line, log

TAGS = ("model", "digest", "host")


def report(wanted: Reference, held: Held, host: str = "") -> None:
    """Log and count a held model. Call it in the replica. `host` is another node of the replica; empty for its own."""
    log.info("%s%s", line(wanted, held), f" host={host}" if host else "")
    tags = {"model": str(wanted).partition("?")[0], "digest": held.digest, "host": host}
    seconds, size, loads = _metrics()
    seconds.set(held.seconds, tags)
    size.set(held.size, tags)
    loads.inc(1, {**tags, "outcome": "hit" if held.hit else "miss"})


@cache
def _metrics() -> tuple[Any, Any, Any]:
    """Make the metrics on first use: in a replica they then carry its name, deployment and application, too."""
    return (
        Gauge("cached_model_load_seconds", "Seconds from asking the model cache to holding the model.", TAGS),
        Gauge("cached_model_bytes", "Bytes of the model that is held.", TAGS),
        Counter("cached_model_loads", "Models that the model cache has given.", (*TAGS, "outcome")),
    )
