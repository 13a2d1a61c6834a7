"""Counts of acquires by outcome, since the daemon started."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    hits: int = 0
    misses: int = 0
    stale: int = 0
    failures: int = 0
