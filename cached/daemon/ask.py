"""What a caller wishes for, and what it may be answered with."""

from __future__ import annotations

from dataclasses import dataclass

from cached.daemon.disk import Disk
from cached.errors import NotCached
from cached.model import ModelRef
from cached.store.index import Known


@dataclass(frozen=True, slots=True)
class Ask:
    """One caller's wish. `max_age` in seconds; None means the configured one. `mending`: it is the daemon's own, and is
    no use of the model."""

    ref: ModelRef
    max_age: float | None = None
    offline: bool = False
    require: str | None = None
    mending: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """A snapshot that a ref may be answered with, and where it is."""

    disk: Disk
    known: Known


def not_cached(ref: ModelRef) -> NotCached:
    return NotCached(f"{ref} is not cached on this node; `cached pull` fetches it.")
