"""A fill that is taken step by step, so that anything may happen between two of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from cached.daemon.space.reservation import Plan
from cached.model import Digest, Entry, Manifest, ManifestFile
from cached.store.blobs.blobs import ingest_key
from cached.store.publish import Arrival
from cached.store.snapshots.snapshots import Origin
from cached.store.store import Store
from tests.faults.models import Model

Secure = Callable[["Filling", dict[str, int]], None]


class Filling:
    """Begun when this is made, with what the room's plan promises. `secure` finds room for a file before it comes."""

    def __init__(self, store: Store, model: Model, plan: Plan, secure: Secure) -> None:
        self.model, self.uid = model, plan.promised.uid
        self._store, self._secure = store, secure
        self._digests: dict[str, Digest] = {}  # By path, of what the store has.
        self.wanted: dict[str, Entry] = {}  # By key, of what it lacks.
        for entry in model.listing.entries:
            self._look(entry)
        sizes = {key: entry.size for key, entry in self.wanted.items()}
        held = set(self._digests.values())
        number = store.index.begin(str(model.listing.ref), sizes, held, plan.usage.limit, plan.promised)
        assert number is not None, "what is promised was refused"
        self.number = number

    def __repr__(self) -> str:
        return f"<Filling {self.model.name}, {len(self.wanted)} to come>"

    def _look(self, entry: Entry) -> None:
        identity = self.model.listing.identity(entry)
        (digest,) = self._store.index.expected([(entry, identity)])
        if digest is not None and self._store.blob(digest) is not None:
            self._digests[entry.path] = digest
            return
        damaged = digest is not None and self._store.wanted_back(digest.hex) is not None
        self.wanted[ingest_key(identity, digest if damaged else entry.digest)] = entry

    def step(self) -> None:
        """Bring and publish the next file, which another fill may have brought meanwhile."""
        if self._take_arrived():
            return
        key, entry = self.wanted.popitem()
        self._secure(self, {key: entry.size})
        with contextlib.closing(self._store.blobs.ingest(key, entry, self._store.wanted_back(key))) as ingest:
            for piece in ingest.missing():
                ingest.land(piece, self.model.files[entry.path][piece.offset : piece.offset + piece.length])
            verified = ingest.verify()
        self._store.publish([Arrival(key, verified, self.model.listing.identity(entry))])
        self._digests[entry.path] = verified.digest

    def _take_arrived(self) -> bool:
        """Whether the next file has come meanwhile, for another fill."""
        key, entry = next(reversed(self.wanted.items()))
        found = self._store.take_arrived({key: (entry, self.model.listing.identity(entry))})
        for digest in found.values():
            del self.wanted[key]
            self._digests[entry.path] = digest
        return bool(found)

    def begin_next(self) -> None:
        """Bring the next file, and leave it at that: neither checked nor published."""
        if self._take_arrived():
            return
        key, entry = next(reversed(self.wanted.items()))
        self._secure(self, {key: entry.size})
        ingest = self._store.blobs.ingest(key, entry, self._store.wanted_back(key))
        for piece in ingest.missing():
            ingest.land(piece, self.model.files[entry.path][piece.offset : piece.offset + piece.length])
        ingest.close()

    def finish(self) -> Digest:
        """DigestMismatch when a blob that it counted on has been condemned since."""
        while self.wanted:
            self.step()
        listing = self.model.listing
        manifest = Manifest(tuple(ManifestFile(e.path, e.size, self._digests[e.path]) for e in listing.entries))
        origin = Origin(self.model.ref, str(listing.ref), listing.revision, brought_by=self.uid)
        self._store.commit(manifest, origin, {self.model.ref: (str(listing.ref), listing.revision)}, self.number)
        return manifest.digest

    def abandon(self) -> None:
        self._store.index.abandon(self.number, self._store.blobs.parts())
