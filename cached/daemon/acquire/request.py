"""A caller's request for a model, and the snapshot that may answer it."""

from __future__ import annotations

from dataclasses import dataclass

from cached.daemon.space.disk import Disk
from cached.errors import NotCached
from cached.model import Digest, Listing
from cached.model_ref import ModelRef
from cached.store.index.hits import Known
from cached.wire import Ready


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `max_age` in seconds; None means the configured one. `mending`: the daemon's own request, for a
    repair; it is no use of the model."""

    ref: ModelRef
    max_age: float | None = None
    offline: bool = False
    require: str | None = None
    mending: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the keys of the refs that may answer it. A repair accepts only the exact one."""
        return (self.ref.key,) if self.mending else self.ref.keys


@dataclass(frozen=True, slots=True)
class Held:
    """A snapshot that may answer a ref, and the disk it is on."""

    disk: Disk
    known: Known


def not_cached(ref: ModelRef) -> NotCached:
    return NotCached(f"{ref} is not cached on this node; `cached pull` fetches it.")


def names_of(listing: Listing) -> dict[str, tuple[str, str]]:
    """Return the refs (key → source, revision) that a listing answers."""
    ref = listing.ref
    names = {ref.key: (str(ref), listing.revision)}
    if ref.scheme == "hf":  # The commit that the name means is known now, and never changes.
        pinned = ref.at(listing.revision)
        names[pinned.key] = (str(pinned), listing.revision)
    return names


def ready(disk: Disk, digest: Digest, revision: str, ref: ModelRef, size: int, hit: bool, stale: bool = False) -> Ready:
    """Return the answer to a request for the ref: this snapshot, on this disk."""
    path = str(disk.store.snapshots.path(digest))  # Each caller locks its own file: see Gate.lock_file.
    return Ready(path, path, str(digest), revision, str(ref), size, hit, stale)
