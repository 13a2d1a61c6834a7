"""Answers as the daemon gives them."""

from __future__ import annotations

from typing import Any

from .wire_server import DIGEST

GIB = 1 << 30


def snapshot(**changes: Any) -> dict[str, Any]:
    return {
        "digest": DIGEST,
        "state": "ready",
        "source": "hf://org/name",
        "revision": "a" * 40,
        "size": 3 * GIB // 2,
        "files": 2,
        "created_at": "2020-01-01T00:00:00Z",
        "used_at": "2020-01-02T00:00:00Z",
        "leased": False,
        "pinned": False,
        "pinned_until": None,
        "access": "caller",
        "root": "/nowhere/cached",
        "refs": ["hf://org/name@main"],
        **changes,
    }


def lease(**changes: Any) -> dict[str, Any]:
    return {
        "digest": DIGEST,
        "source": "hf://org/name",
        "pid": 4711,
        "uid": 1000,
        "command": "python serve.py",
        "since": "2020-01-02T00:00:00Z",
        "held": True,
        "reopen": False,
        **changes,
    }


def shown(**changes: Any) -> dict[str, Any]:
    return {
        **snapshot(),
        "path": "/srv/cached/snapshots/" + "3f" * 32,
        "lock": "/srv/cached/snapshots/" + "3f" * 32 + ".json",
        "manifest": [
            {"path": "config.json", "size": 512, "digest": "sha256:" + "01" * 32},
            {"path": "model.safetensors", "size": GIB, "digest": "sha256:" + "02" * 32},
        ],
        "brought_by": 1000,
        "entrants": [{"uid": 1000, "until": "2020-01-02T00:00:00Z"}, {"uid": 1001, "until": "2020-01-02T00:00:00Z"}],
        "shared_bytes": 512,
        "unique_bytes": GIB,
        "history": [{"at": "2020-01-01T00:00:00Z", "what": "published", "why": "pull"}],
        "holders": [lease()],
        **changes,
    }


def status(**changes: Any) -> dict[str, Any]:
    """What is changed of the node is changed of its one root."""
    root = {
        "root": "/nowhere/cached",
        "reason": None,
        "limit": 100 * GIB,
        "used": 10 * GIB,
        "reserved": 0,
        "free": 90 * GIB,
        "quarantined": 0,
        "snapshots": 3,
        "blobs": 12,
        "damaged": 0,
        "leases": 1,
        "recovered": {"index": "kept"},
    }
    root |= {name: value for name, value in changes.items() if name in root}
    return {
        "version": "0.1.0",
        "healthy": True,
        **root,
        "roots": [root],
        "fills": [],
        "hits": 7,
        "misses": 3,
        "stale": 0,
        "failures": 0,
        "fetched_bytes": 10 * GIB,
        "scrubbed_blobs": 0,
        "scrubbed_bytes": 0,
        "scrub_damaged": 0,
        "workers": [4711, 4712],
        "workers_lost": 0,
        "uptime": 3700.5,
        **changes,
    }
