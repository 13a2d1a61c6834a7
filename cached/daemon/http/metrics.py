"""The numbers of `status` in Prometheus' text format."""

from __future__ import annotations

from typing import Any

_METRICS = {
    "limit": ("gauge", "cached_limit_bytes", "Bytes that blobs and reservations may take."),
    "used": ("gauge", "cached_used_bytes", "Bytes of published blobs."),
    "reserved": ("gauge", "cached_reserved_bytes", "Bytes promised to downloads in flight or parked."),
    "free": ("gauge", "cached_filesystem_free_bytes", "Free bytes of the root's file system."),
    "quarantined": ("gauge", "cached_quarantined_bytes", "Bytes of damaged files that are kept for a look."),
    "healthy": ("gauge", "cached_healthy", "1, or 0 when a root is degraded or missing."),
    "snapshots": ("gauge", "cached_snapshots", "Snapshots held."),
    "damaged": ("gauge", "cached_damaged_snapshots", "Snapshots that are not handed out until they are mended."),
    "blobs": ("gauge", "cached_blobs", "Blobs held."),
    "leases": ("gauge", "cached_leases", "Leases held by processes."),
    "fills": ("gauge", "cached_fills", "Fills running."),
    "hits": ("counter", "cached_hits_total", "Acquires answered from the disk."),
    "misses": ("counter", "cached_misses_total", "Acquires that had to fetch."),
    "stale": ("counter", "cached_stale_total", "Hits served without the source's word, because it did not answer."),
    "failures": ("counter", "cached_failures_total", "Fills that ended in an error."),
    "fetched_bytes": ("counter", "cached_fetched_bytes_total", "Bytes fetched from sources."),
    "scrubbed_bytes": ("counter", "cached_scrubbed_bytes_total", "Bytes that background checks have read."),
    "scrub_damaged": ("counter", "cached_scrub_damaged_total", "Blobs that background checks found damaged."),
    "workers": ("gauge", "cached_workers", "Processes that fetch, and are ready to."),
    "workers_lost": ("counter", "cached_workers_lost_total", "How often those had to be replaced because one died."),
    "uptime": ("gauge", "cached_uptime_seconds", "Seconds since the daemon started."),
}


def exposition(status: dict[str, Any]) -> str:
    """Return the metrics as text. See https://prometheus.io/docs/instrumenting/exposition_formats/."""
    lines = []
    for field, (kind, name, text) in _METRICS.items():
        value = len(status[field]) if isinstance(status[field], list) else status[field] + 0  # A bool is 0 or 1.
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", f"{name} {value}"]
    return "\n".join(lines) + "\n"
