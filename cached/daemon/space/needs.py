"""A listing as one disk sees it: the files that exist there already, and those that have to be fetched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cached.daemon.space.eviction_policy import Wish
from cached.model import Digest, Entry, Listing
from cached.store import overhead
from cached.store.blobs.blobs import ingest_key
from cached.store.store import Store


@dataclass(frozen=True, slots=True)
class Needs:
    """The needs of a listing on one disk: the digests of the files that exist there, by path, and the missing files
    (`wants`), by the key to fetch them by.

    `begun`: bytes by key of missing files that are reserved already, by another fill or for an interrupted download, so
    that no room need be found for them. `damaged`: keys of files that are to replace a damaged blob.
    """

    listing: Listing
    keys: Mapping[str, str]  # By path, of every file.
    digests: Mapping[str, Digest]
    wants: Mapping[str, Entry]
    begun: Mapping[str, int]
    damaged: frozenset[str]

    sizes: Mapping[str, int] = field(init=False)  # Bytes of what is missing, by key.
    missing: int = field(init=False)  # Bytes to fetch if none of them have landed.
    new: int = field(init=False)  # Bytes to find room for.
    unique: int = field(init=False)  # Bytes of the whole listing, each content once.
    ties: int = field(init=False)  # Bytes that count in favour of this disk.
    overhead: int = field(init=False)  # Bytes that the snapshot will take beside its blobs.

    def __post_init__(self) -> None:
        """Compute the sums here, in the thread that creates the object, because models have thousands of files."""
        wants, entries = self.wants, self.listing.entries
        sizes = {key: entry.size for key, entry in wants.items()}
        missing = sum(sizes.values())
        unique = sum({self.keys[entry.path]: entry.size for entry in entries}.values())
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "missing", missing)
        object.__setattr__(self, "new", missing - sum(size for key, size in self.begun.items() if key in sizes))
        object.__setattr__(self, "unique", unique)
        object.__setattr__(self, "overhead", overhead.of(len(entries)))
        object.__setattr__(self, "ties", unique - missing + sum(sizes[key] for key in self.begun.keys() | self.damaged))

    @classmethod
    def of(cls, listing: Listing, store: Store) -> Needs:
        """Return the needs of the listing on this store. Synchronous, like every call to the store."""
        index, blobs = store.index, store.blobs
        files = [(entry, listing.identity(entry)) for entry in listing.entries]
        expected = {entry.path: digest for (entry, _), digest in zip(files, index.expected(files), strict=True)}
        rows = index.blobs(digest.hex for digest in expected.values() if digest is not None)
        keys: dict[str, str] = {}
        digests: dict[str, Digest] = {}
        wants: dict[str, Entry] = {}
        for entry, identity in files:
            digest = expected[entry.path]
            damaged = None if digest is None else rows.get(digest.hex)
            # The replacement of a damaged blob is keyed by its digest, whatever the source calls it: see
            # `Store.wanted_back`.
            key = ingest_key(identity, digest if damaged else entry.digest)
            keys[entry.path] = key
            if digest is not None and damaged is False and blobs.size(digest) == entry.size:
                digests[entry.path] = digest
            else:
                wants[key] = entry
        damaged_keys = frozenset(key for key in wants if rows.get(key))
        return cls(listing, keys, digests, wants, index.reserved(wants), damaged_keys)

    def wish(self, uid: int | None) -> Wish:
        """Return the wish to make room for this listing, on that user's account."""
        blobs = frozenset(digest.hex for digest in self.digests.values())
        purpose = f"to make room for {self.listing.ref}"
        return Wish(purpose, wants=self.sizes, blobs=blobs, uid=uid, overhead=self.overhead)
