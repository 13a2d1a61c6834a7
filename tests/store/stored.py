"""Models that tests put into a store, and what lies under its root then."""

from __future__ import annotations

from pathlib import Path

from cached.access import Access
from cached.model import Entry, Listing, Manifest, ManifestFile, ModelRef
from cached.store.blobs import ingest_key
from cached.store.snapshots import Origin
from cached.store.store import Arrival, Store

OPEN = Access("open")


def add(store: Store, name: str, files: dict[str, bytes]) -> Manifest:
    """Take a model through the whole way: reserve, ingest, publish, commit."""
    ref = ModelRef.parse(f"s3://bucket/{name}")
    entries = tuple(Entry(path, len(data), "v1") for path, data in files.items())
    listing = Listing(ref, str(ref), "revision", entries)
    keys = {entry.path: ingest_key(listing.identity(entry), None) for entry in entries}
    wants = {keys[entry.path]: entry.size for entry in entries}
    fill = store.index.begin(str(ref), wants, [], store.usage().limit)
    assert fill is not None
    found = []
    for entry in entries:
        ingest = store.blobs.ingest(keys[entry.path], entry)
        for piece in ingest.missing():
            ingest.land(piece, files[entry.path][piece.offset : piece.offset + piece.length])
        verified = ingest.verify()
        ingest.close()
        store.publish([Arrival(keys[entry.path], verified, listing.identity(entry))])
        found.append(ManifestFile(entry.path, entry.size, verified.digest))
    manifest = Manifest(tuple(found))
    refs = {ref.key: (str(ref), "revision")}
    store.commit(manifest, Origin(ref.key, str(ref), "revision", OPEN), refs, fill)
    return manifest


def files(store: Store, *folders: str) -> list[Path]:
    wanted = folders or ("blobs", "snapshots", "ingest", "trash")
    return sorted(path for name in wanted for path in (store.layout.root / name).rglob("*") if path.is_file())


def key(name: str) -> str:
    return ModelRef.parse(f"s3://bucket/{name}").key
