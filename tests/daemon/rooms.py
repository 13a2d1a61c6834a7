"""Rooms on stores in this process, and models that come into them file by file, without a source."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from cached.client.lease import take
from cached.config import Config, Duration, Size
from cached.daemon.space.disk import Disk
from cached.daemon.space.reservation import Reserved, Room
from cached.model import Digest, Entry, Listing, Manifest, ManifestFile
from cached.model_ref import ModelRef
from cached.store.snapshots.snapshots import Origin
from cached.store.store import Store
from tests.store.stored import OPEN, lock_file, publish

KB = 4096  # So that what a file occupies is what it has.


class Rooms:
    """Each `make` is a room of so many KB on the same root, the earlier ones being closed."""

    def __init__(self, folder: Path) -> None:
        self._root = folder / "root"
        self._stores: list[Store] = []

    def make(self, limit: int, **settings: object) -> Room:
        self.close()
        values = {"min_residency": Duration(0), "keep_free": Size(0), "limit": Size(limit * KB), **settings}
        config = Config(root=self._root, **values)  # type: ignore[arg-type]
        self._stores.append(Store(config))
        return Room(config, Disk(self._stores[-1]))

    def close(self) -> None:
        while self._stores:
            self._stores.pop().close()


def store_of(room: Room) -> Store:
    return room._disk.store


def model(name: str, **sizes: int) -> Listing:
    """Files of so many KB, of which no sha256 is known."""
    ref = ModelRef.parse(f"s3://bucket/{name}")
    return Listing(ref, str(ref), "revision", tuple(Entry(path, kb * KB, "v1") for path, kb in sizes.items()))


def data(listing: Listing, entry: Entry) -> bytes:
    """What that file holds: no two have a block in common."""
    letters = f"{listing.ref}/{entry.path} ".encode()
    return (letters * (entry.size // len(letters) + 1))[: entry.size]


def here(room: Room) -> set[str]:
    return {row["source"].rpartition("/")[2] for row in store_of(room).index.query("SELECT source FROM snapshot")}


def on_disk(room: Room) -> int:
    """KB below the root that the limit is for."""
    root = store_of(room).layout.root
    found = [path for folder in ("blobs", "ingest", "quarantine") for path in (root / folder).rglob("*")]
    return sum(path.stat().st_blocks * 512 for path in found if path.is_file() and path.suffix != ".pieces") // KB


async def reserve(room: Room, name: str, uid: int | None = None, **sizes: int) -> Reserved:
    return await room.reserve(model(name, **sizes), uid)


async def come(room: Room, reserved: Reserved, *paths: str) -> None:
    """These files of it (none named: all) come: room first, then bytes."""
    needs = reserved.needs
    for key, entry in list(needs.wants.items()):
        if (not paths or entry.path in paths) and key in store_of(room).promises.reservations([key]):
            await room.secure({key: entry.size})
            publish(store_of(room), needs.listing, entry, data(needs.listing, entry))


async def ready(room: Room, reserved: Reserved) -> Digest:
    """The rest comes, and it becomes a snapshot."""
    await come(room, reserved)
    listing = reserved.needs.listing
    files = tuple(ManifestFile(e.path, e.size, Digest.of(data(listing, e))) for e in listing.entries)
    manifest, ref = Manifest(files), listing.ref
    origin = Origin(ref.key, str(ref), listing.revision, OPEN, reserved.uid)
    store_of(room).commit(manifest, origin, {ref.key: (str(ref), listing.revision)}, reserved.fill)
    room.committed(reserved)
    return manifest.digest


async def bring(room: Room, name: str, uid: int | None = None, **sizes: int) -> Digest:
    return await ready(room, await reserve(room, name, uid, **sizes))


def lease(room: Room, digest: Digest) -> int:
    fd = take(lock_file(store_of(room), digest))
    assert fd is not None
    return fd


def used(room: Room, digests: Iterable[Digest]) -> None:
    """One after the other, just now."""
    for digest in digests:
        room._disk.uses.touch(digest)


@asynccontextmanager
async def running(room: Room, reserved: Reserved) -> AsyncIterator[asyncio.Task[None]]:
    """A fill that never gets its next bytes."""
    begun = asyncio.Event()

    async def hang() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def fill() -> None:
        try:
            await room.run(reserved, hang())
        finally:
            await room.abandon(reserved)

    task = asyncio.create_task(fill())
    await begun.wait()
    try:
        async with asyncio.timeout(60):
            yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
