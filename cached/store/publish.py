"""Give verified blobs their names and their rows, and let a fill use blobs that others have published meanwhile."""

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
    """A verified blob that waits for its name and its row. `key` is the name of its ingest."""

    key: str
    verified: Verified
    identity: str | None  # None unless every byte was read there: else access is proved first.


def publish(index: Index, blobs: Blobs, arrivals: Sequence[Arrival]) -> None:
    """Give the blobs their names, durably, then write their rows in one transaction."""
    times = [blobs.publish(arrival.key, arrival.verified) for arrival in arrivals]
    blobs.sync(arrival.verified.digest for arrival in arrivals)
    pairs = zip(arrivals, times, strict=True)
    index.add_blobs((each.verified, each.identity, each.key, at) for each, at in pairs)


def take_arrived(index: Index, blobs: Blobs, wants: Mapping[str, tuple[Entry, str]]) -> dict[str, Digest]:
    """Return those wanted files (by key: the entry and its identity) that are cached now; every fill that wants one
    then holds it.

    As when they are published, reservations become use.
    """
    here = {
        key: digest
        for key, digest in zip(wants, index.expected(wants.values()), strict=True)
        if digest is not None and blobs.size(digest) == wants[key][0].size
    }
    if not here:
        return {}
    with index.transaction() as db:  # Includes the query of the rows: nothing may be evicted in between.
        rows = index.blobs(digest.hex for digest in here.values())
        found = {key: digest for key, digest in here.items() if rows.get(digest.hex) is False}
        fulfil(db, found.items())
    return found
