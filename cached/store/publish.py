"""Verified blobs get their names and their rows; a fill takes what others have published meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cached.model import Digest, Entry
from cached.store.blobs.blobs import Blobs
from cached.store.blobs.ingest import Verified
from cached.store.index.fills import fulfil
from cached.store.index.index import Index


@dataclass(frozen=True, slots=True)
class Arrival:
    """A verified blob that waits for its name and its row. `key` is what its ingest is called."""

    key: str
    verified: Verified
    identity: str | None  # None where not every byte of it was read there: who read it has to be shown first.


def publish(index: Index, blobs: Blobs, arrivals: Sequence[Arrival]) -> None:
    """Name the blobs, durably, then write their rows: all in one transaction."""
    times = [blobs.publish(arrival.key, arrival.verified) for arrival in arrivals]
    blobs.sync(arrival.verified.digest for arrival in arrivals)
    pairs = zip(arrivals, times, strict=True)
    index.add_blobs((each.verified, each.identity, each.key, at) for each, at in pairs)


def take_arrived(index: Index, blobs: Blobs, wants: Mapping[str, tuple[Entry, str]]) -> dict[str, Digest]:
    """Of wanted files (by key: the entry and its identity) those that are here now; every fill that wants one holds it.

    As when they are published, reservations become use.
    """
    here = {
        key: digest
        for key, digest in zip(wants, index.expected(wants.values()), strict=True)
        if digest is not None and blobs.size(digest) == wants[key][0].size
    }
    if not here:
        return {}
    with index.transaction() as db:  # The look at the rows included: nothing may be evicted in between.
        rows = index.blobs(digest.hex for digest in here.values())
        found = {key: digest for key, digest in here.items() if rows.get(digest.hex) is False}
        fulfil(db, found.items())
    return found
