"""The models that go through the store while faults strike, and the whole way in, as the daemon takes it."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from cached.config import Config, Size
from cached.errors import AllHeld
from cached.model import PIECE_BYTES, Digest, Entry, Listing, Manifest, ManifestFile
from cached.model_ref import ModelRef
from cached.store.blobs.blobs import ingest_key
from cached.store.blobs.ingest import Ingest, Verified
from cached.store.blobs.piece_writer import write_all
from cached.store.disk import disk_errors
from cached.store.publish import Arrival
from cached.store.snapshots.snapshots import Origin
from cached.store.store import Store

LIMIT = 64 << 20  # Of the store; the large model fits twice.
STEP = 2 << 20  # Bytes that arrive at a time: enough of them that a piece is noted before it is whole.


@dataclass(frozen=True)
class Model:
    """What a source would list: these files, and for each the bytes that it would send."""

    name: str
    files: Mapping[str, bytes] = field(repr=False)
    promised: bool = False  # Whether the source publishes each file's sha256 …
    sent: Mapping[str, bytes] = field(default_factory=dict, repr=False)  # … and what it sends where that is not so.

    @cached_property
    def listing(self) -> Listing:
        ref = ModelRef.parse(f"s3://bucket/{self.name}")
        promises = {path: Digest.of(data) if self.promised else None for path, data in self.files.items()}
        entries = tuple(Entry(path, len(data), "v1", promises[path]) for path, data in self.files.items())
        return Listing(ref, str(ref), "revision", entries)

    @cached_property
    def manifest(self) -> Manifest:
        return Manifest(tuple(ManifestFile(path, len(data), Digest.of(data)) for path, data in self.files.items()))

    @cached_property
    def digest(self) -> Digest:
        return self.manifest.digest

    @property
    def ref(self) -> str:
        return self.listing.ref.key

    def sends(self, entry: Entry) -> bytes:
        return self.sent.get(entry.path, self.files[entry.path])

    def key(self, entry: Entry) -> str:
        return ingest_key(self.listing.identity(entry), entry.digest)


SHARED = b'{"tokens": ["a", "b"]}'
LARGE = "model.safetensors"

HELD = Model("held", {"config.json": b'{"held": true}', "tokenizer.json": SHARED})
NEW = Model(
    "new",
    {
        LARGE: random.Random(17).randbytes(PIECE_BYTES + (1 << 20)),
        "config.json": b'{"new": true}',
        "tokenizer/tokenizer.json": SHARED,
    },
)
KNOWN = {model.digest: model for model in (HELD, NEW)}


def open_store(root: Path) -> Store:
    return Store(Config(root=root, limit=Size(LIMIT), keep_free=Size(0)))


Arrive = Callable[[Ingest, bytes], None]


def by_pieces(ingest: Ingest, data: bytes) -> None:
    """As our own engine brings them."""
    for piece in ingest.missing():
        with ingest.landing(piece) as landing:
            while landing.done < piece.length:
                start = piece.offset + landing.done
                landing.write(memoryview(data)[start : min(start + STEP, piece.offset + piece.length)])


def by_another_engine(ingest: Ingest, data: bytes) -> None:
    """Written into the part by somebody else, then adopted."""
    ingest.allocate(len(data))
    with disk_errors("writing by another engine"), ingest.part.open("r+b", buffering=0) as file:
        for start in range(0, len(data), STEP):
            write_all(file.fileno(), memoryview(data)[start : start + STEP], start)
    ingest.adopt()


def fetch(store: Store, model: Model, arrive: Arrive = by_pieces) -> Digest:
    """Reserve, ingest, verify, publish, commit; what its snapshot is called. On an error, parked as the daemon does."""
    listing = model.listing
    wanted, present = _split(store, model)
    sizes = {key: entry.size for key, entry in wanted.items()}
    fill = store.index.begin(str(listing.ref), sizes, set(present.values()), store.usage().limit)
    if fill is None:
        raise AllHeld("There is no room.")
    try:
        digests = present | _bring(store, model, wanted, arrive)
        files = tuple(ManifestFile(entry.path, entry.size, digests[entry.path]) for entry in listing.entries)
        manifest, origin = Manifest(files), Origin(model.ref, str(listing.ref), listing.revision)
        store.commit(manifest, origin, {model.ref: (str(listing.ref), listing.revision)}, fill)
        return manifest.digest
    except BaseException:
        store.index.abandon(fill, store.blobs.parts())
        raise


def acquire(store: Store, model: Model) -> Digest:
    """What a caller is given: what is here, else what is fetched."""
    known = store.index.find(model.ref)
    return known.snapshot if known else fetch(store, model)


def _split(store: Store, model: Model) -> tuple[dict[str, Entry], dict[str, Digest]]:
    """What the store lacks, by key, and what it has, by path. What replaces a damaged blob goes by its digest."""
    files = [(entry, model.listing.identity(entry)) for entry in model.listing.entries]
    wanted: dict[str, Entry] = {}
    present: dict[str, Digest] = {}
    for (entry, identity), digest in zip(files, store.index.expected(files), strict=True):
        damaged = None if digest is None else _damaged(store, digest)
        if digest is not None and damaged is False and store.blobs.size(digest) == entry.size:
            present[entry.path] = digest
        else:
            wanted[ingest_key(identity, digest if damaged else entry.digest)] = entry
    return wanted, present


def _damaged(store: Store, digest: Digest) -> bool | None:
    """None when there is no such blob."""
    rows = store.index.query("SELECT damaged FROM blob WHERE digest = ?", (digest.hex,))
    return bool(rows[0]["damaged"]) if rows else None


def _bring(store: Store, model: Model, wanted: Mapping[str, Entry], arrive: Arrive) -> dict[str, Digest]:
    """Large files one by one, small ones together."""
    small = {key: entry for key, entry in wanted.items() if entry.size <= PIECE_BYTES}
    found: dict[str, Digest] = {}
    for key, entry in wanted.items():
        if key not in small:
            found |= _publish(store, model, wanted, {key: _large(store, key, entry, model.sends(entry), arrive)})
    return found | _publish(store, model, wanted, _small(store, model, small)) if small else found


def _large(store: Store, key: str, entry: Entry, data: bytes, arrive: Arrive) -> Verified:
    with contextlib.closing(store.blobs.ingest(key, entry, store.wanted_back(key))) as ingest:
        arrive(ingest, data)
        return ingest.verify()


def _small(store: Store, model: Model, wanted: Mapping[str, Entry]) -> dict[str, Verified]:
    """All written, then all synced, as the worker does."""
    with contextlib.ExitStack() as stack:
        ingests = {}
        for key, entry in wanted.items():
            ingests[key] = store.blobs.small_ingest(key, entry, memoryview(model.sends(entry)))
            stack.callback(ingests[key].close)
        return {key: ingest.sync() for key, ingest in ingests.items()}


def _publish(
    store: Store, model: Model, wanted: Mapping[str, Entry], verified: Mapping[str, Verified]
) -> dict[str, Digest]:
    identity = model.listing.identity
    store.publish([Arrival(key, found, identity(wanted[key])) for key, found in verified.items()])
    return {wanted[key].path: found.digest for key, found in verified.items()}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
