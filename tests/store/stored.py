"""Models that tests put into a store, and what lies under its root then."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from cached.access import Access
from cached.model import Digest, Entry, Listing, Manifest, ManifestFile
from cached.model_ref import ModelRef
from cached.store.blobs.blobs import ingest_key
from cached.store.publish import Arrival
from cached.store.snapshots.snapshots import Origin
from cached.store.store import Store

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
    found = [ManifestFile(e.path, e.size, publish(store, listing, e, files[e.path])) for e in entries]
    manifest = Manifest(tuple(found))
    refs = {ref.key: (str(ref), "revision")}
    store.commit(manifest, Origin(ref.key, str(ref), "revision", OPEN), refs, fill)
    return manifest


def publish(store: Store, listing: Listing, entry: Entry, data: bytes) -> Digest:
    """A blob as it comes in, after room was reserved for it."""
    key = ingest_key(listing.identity(entry), entry.digest)
    ingest = store.blobs.ingest(key, entry)
    for piece in ingest.missing():
        ingest.land(piece, data[piece.offset : piece.offset + piece.length])
    verified = ingest.verify()
    ingest.close()
    store.publish([Arrival(key, verified, listing.identity(entry))])
    return verified.digest


def files(store: Store, *folders: str) -> list[Path]:
    wanted = folders or ("blobs", "snapshots", "ingest", "trash")
    return sorted(path for name in wanted for path in (store.layout.root / name).rglob("*") if path.is_file())


def key(name: str) -> str:
    return ModelRef.parse(f"s3://bucket/{name}").key


def as_layout_1(store: Store) -> None:
    """Make the root what a daemon of layout 1 has left: index, FORMAT and manifests are everybody's to open, and the
    manifests are what leases lock."""
    root = store.layout
    store.close()
    with contextlib.suppress(FileNotFoundError):
        root.format.unlink()
    root.format.write_text("1\n")
    for path in [root.format, *root.root.glob("index.db*")]:
        path.chmod(0o644)
    for path in root.snapshots.iterdir():
        if path.suffix == ".locks":
            shutil.rmtree(path)
        elif path.suffix == ".json":
            path.chmod(path.with_suffix("").stat().st_mode & 0o444)


def lock_file(store: Store, manifest: Digest | Manifest, uid: int | None = None) -> str:
    """What a user, this process's if none is named, is handed to lock."""
    snapshot = manifest.digest if isinstance(manifest, Manifest) else manifest
    return store.leases.make(snapshot, os.geteuid() if uid is None else uid)
