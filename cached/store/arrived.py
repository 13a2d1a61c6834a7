"""What came for somebody else between a fill's look at the store and its turn to fetch."""

from __future__ import annotations

from collections.abc import Mapping

from cached.model import Digest, Entry
from cached.store.blobs import Blobs
from cached.store.index import Index
from cached.store.wants import fulfil


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
