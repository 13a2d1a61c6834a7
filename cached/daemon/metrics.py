"""Prometheus' text format, of the numbers that `status` has."""

from __future__ import annotations

from typing import Any

_METRICS = {
    "limit": ("gauge", "cached_limit_bytes", "Bytes that blobs and reservations may take."),
    "used": ("gauge", "cached_used_bytes", "Bytes of published blobs."),
    "reserved": ("gauge", "cached_reserved_bytes", "Bytes promised to downloads in flight or parked."),
    "free": ("gauge", "cached_filesystem_free_bytes", "Free bytes of the root's file system."),
    "snapshots": ("gauge", "cached_snapshots", "Snapshots held."),
    "blobs": ("gauge", "cached_blobs", "Blobs held."),
    "leases": ("gauge", "cached_leases", "Leases held by processes."),
    "fills": ("gauge", "cached_fills", "Fills running."),
    "hits": ("counter", "cached_hits_total", "Acquires answered from the disk."),
    "misses": ("counter", "cached_misses_total", "Acquires that had to fetch."),
    "stale": ("counter", "cached_stale_total", "Hits served without the source's word, because it did not answer."),
    "failures": ("counter", "cached_failures_total", "Fills that ended in an error."),
    "fetched_bytes": ("counter", "cached_fetched_bytes_total", "Bytes fetched from sources."),
    "workers": ("gauge", "cached_workers", "Processes that fetch, and are ready to."),
    "workers_lost": ("counter", "cached_workers_lost_total", "How often those had to be replaced because one died."),
    "uptime": ("gauge", "cached_uptime_seconds", "Seconds since the daemon started."),
}


def exposition(status: dict[str, Any]) -> str:
    """See https://prometheus.io/docs/instrumenting/exposition_formats/."""
    lines = []
    for field, (kind, name, text) in _METRICS.items():
        value = len(status[field]) if isinstance(status[field], list) else status[field]
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", f"{name} {value}"]
    return "\n".join(lines) + "\n"
