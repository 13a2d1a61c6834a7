"""Room for a fill, on a store in this process: what goes, what does not, and what is counted."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cached.config import Config, Size
from cached.daemon.space.disk import Disk
from cached.daemon.space.room import Reserved, Room
from cached.errors import AllHeld
from cached.lease import take
from cached.model import Digest, Entry, Listing
from cached.model_ref import ModelRef
from cached.store.blobs import ingest_key
from cached.store.checkup import Checkup
from cached.store.store import Store
from tests.store.stored import add, lock_file

Make = Callable[..., Room]
KB = 4096  # So that what a file occupies is what it has.


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """A room of so many KB."""
    stores: list[Store] = []

    def make_(limit: int, **settings: object) -> Room:
        config = Config(root=tmp_path / "root", keep_free=Size(0), limit=Size(limit * KB), **settings)  # type: ignore[arg-type]
        stores.append(Store(config))
        return Room(dataclasses.replace(config, min_residency=config.min_residency.__class__(0)), Disk(stores[-1]))

    yield make_
    for store in stores:
        store.close()


def store_of(room: Room) -> Store:
    return room._disk.store


def model(name: str, **sizes: int) -> Listing:
    """Files of so many KB, of which no sha256 is known."""
    ref = ModelRef.parse(f"s3://bucket/{name}")
    return Listing(ref, str(ref), "revision", tuple(Entry(path, kb * KB, "v1") for path, kb in sizes.items()))


def data(letter: str, kb: int) -> bytes:
    return letter.encode() * (kb * KB)


def here(room: Room) -> set[str]:
    return {row["source"].rpartition("/")[2] for row in store_of(room).index.query("SELECT source FROM snapshot")}


def park(room: Room, listing: Listing, path: str) -> None:
    """A download of that file that broke off."""
    store = store_of(room)
    (entry,) = (entry for entry in listing.entries if entry.path == path)
    key = ingest_key(listing.identity(entry), None)
    fill = store.index.begin(str(listing.ref), {key: entry.size}, [], 1 << 40)
    assert fill is not None
    ingest = store.blobs.ingest(key, entry)
    ingest.allocate(entry.size)
    ingest.close()
    store.index.abandon(fill, store.blobs.parts())


async def come(room: Room, reserved: Reserved) -> None:
    """All that it lacks is about to come."""
    await room.secure(reserved.needs.sizes)


async def test_what_would_not_be_enough_is_not_taken_away(make: Make) -> None:
    room = make(100)
    leased = add(store_of(room), "a", {"w": data("a", 50)})
    add(store_of(room), "b", {"w": data("b", 30)})
    fd = take(lock_file(store_of(room), leased))
    assert fd is not None
    with pytest.raises(AllHeld):
        await room.reserve(model("c", w=60))
    assert here(room) == {"a", "b"}
    await come(room, await room.reserve(model("c", w=40)))
    assert here(room) == {"a"}


async def test_a_download_that_goes_on_needs_no_second_room_and_is_not_dropped_for_itself(make: Make) -> None:
    room = make(160)
    add(store_of(room), "old", {"w": data("o", 20)})
    listing = model("new", k=100, l=40)
    park(room, listing, "k")
    plan = await room.plan(listing)
    assert (plan.why, plan.victims) == (None, ())
    await room.reserve(listing)
    assert here(room) == {"old"}
    assert store_of(room).usage().reserved == 140 * KB


async def test_a_download_that_goes_on_stays_when_something_has_to_go_for_its_model(make: Make) -> None:
    room = make(150)
    add(store_of(room), "old", {"w": data("o", 20)})
    listing = model("new", k=100, l=40)
    park(room, listing, "k")
    assert [victim.frees for victim in (await room.plan(listing)).victims] == [20 * KB]
    await come(room, await room.reserve(listing))
    assert here(room) == set()
    assert len(list(store_of(room).layout.ingest.glob("*.part"))) == 1, "what had landed of it is still there"


async def test_parked_downloads_go_before_any_model_and_a_plan_says_so(make: Make) -> None:
    room = make(100)
    add(store_of(room), "old", {"w": data("o", 20)})
    park(room, model("parked", k=60), "k")
    plan = await room.plan(model("new", w=70))
    assert (plan.why, plan.victims) == (None, ())
    await room.reserve(model("new", w=70))
    assert here(room) == {"old"}


async def test_mending_a_model_larger_than_half_the_store_does_not_evict_it(make: Make) -> None:
    room = make(100)
    store = store_of(room)
    manifest = add(store, "m", {"w": data("m", 60)})
    blob = Digest.of(data("m", 60))
    seen = store.blobs.status(blob)
    assert seen is not None
    store.condemn(blob, Checkup("wrong sha256", seen=(seen.st_ino, seen.st_mtime_ns)))
    # As after a mend, or the holder's end: no snapshot has the damaged file any more.
    store.snapshots.path(manifest.digest).chmod(0o755)
    (store.snapshots.path(manifest.digest) / "w").unlink()
    reserved = await room.reserve(model("m", w=60))
    assert reserved.needs.damaged == {blob.hex}
    assert here(room) == {"m"}
    usage = store.usage()
    assert usage.used + usage.reserved <= usage.limit


async def test_a_damaged_file_that_a_snapshot_still_has_goes_on_counting(make: Make) -> None:
    room = make(100)
    store = store_of(room)
    manifest = add(store, "m", {"w": data("m", 60)})
    blob = Digest.of(data("m", 60))
    fd = take(lock_file(store, manifest))
    assert fd is not None
    seen = store.blobs.status(blob)
    assert seen is not None
    store.condemn(blob, Checkup("wrong sha256", seen=(seen.st_ino, seen.st_mtime_ns)))
    with pytest.raises(AllHeld):
        await room.reserve(model("other", w=70))
    assert store.usage().quarantined == 60 * KB


@pytest.mark.parametrize("times", [1, 2])
async def test_a_caller_that_leaves_while_room_is_reserved_leaves_nothing_reserved(
    make: Make, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    room = make(100)
    index, begin = store_of(room).index, store_of(room).index.begin
    begun, go_on = threading.Event(), threading.Event()

    def slowly(*args: Any) -> int | None:
        begun.set()
        go_on.wait(30)
        return begin(*args)

    monkeypatch.setattr(index, "begin", slowly)
    reserving = asyncio.create_task(room.reserve(model("m", w=90)))
    await asyncio.to_thread(begun.wait, 30)
    for _ in range(times):
        reserving.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await reserving
    while room._disk._leaving:
        await asyncio.wait(room._disk._leaving)
    assert store_of(room).usage().reserved == 0
    assert index.query("SELECT * FROM fill") == []


async def test_a_budget_counts_what_fills_have_and_what_is_shared_once(make: Make) -> None:
    room = make(1000, budgets={"s3://bucket/": Size(100 * KB)})
    await room.reserve(model("one", w=60))
    await room.reserve(model("one", w=60))  # Another ref of the same files: nothing more is needed.
    with pytest.raises(AllHeld, match="budget"):
        await room.reserve(model("two", w=60))
