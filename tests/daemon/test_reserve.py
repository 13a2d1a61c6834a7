"""Room for a fill, on a store in this process: what goes, what does not, and what is counted."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from cached.client.lease import take
from cached.config import Size
from cached.daemon.space.reservation import Reserved, Room
from cached.errors import AllHeld
from cached.model import Digest, Listing
from cached.store.blobs.blobs import ingest_key
from cached.store.blobs.verify import Checkup
from tests.daemon.rooms import KB, Rooms, here, model, store_of
from tests.store.stored import add, lock_file


def data(letter: str, kb: int) -> bytes:
    return letter.encode() * (kb * KB)


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


async def test_what_would_not_be_enough_is_not_taken_away(rooms: Rooms) -> None:
    room = rooms.make(100)
    leased = add(store_of(room), "a", {"w": data("a", 50)})
    add(store_of(room), "b", {"w": data("b", 30)})
    fd = take(lock_file(store_of(room), leased))
    assert fd is not None
    with pytest.raises(AllHeld):
        await room.reserve(model("c", w=60))
    assert here(room) == {"a", "b"}
    await come(room, await room.reserve(model("c", w=40)))
    assert here(room) == {"a"}


async def test_a_download_that_goes_on_needs_no_second_room_and_is_not_dropped_for_itself(rooms: Rooms) -> None:
    room = rooms.make(160)
    add(store_of(room), "old", {"w": data("o", 20)})
    listing = model("new", k=100, l=40)
    park(room, listing, "k")
    plan = await room.plan(listing)
    assert (plan.why, plan.victims) == (None, ())
    await room.reserve(listing)
    assert here(room) == {"old"}
    assert store_of(room).usage().reserved == 140 * KB


async def test_a_download_that_goes_on_stays_when_something_has_to_go_for_its_model(rooms: Rooms) -> None:
    room = rooms.make(150)
    add(store_of(room), "old", {"w": data("o", 20)})
    listing = model("new", k=100, l=40)
    park(room, listing, "k")
    assert [victim.frees for victim in (await room.plan(listing)).victims] == [20 * KB]
    await come(room, await room.reserve(listing))
    assert here(room) == set()
    assert len(list(store_of(room).layout.ingest.glob("*.part"))) == 1, "what had landed of it is still there"


async def test_parked_downloads_go_before_any_model_and_a_plan_says_so(rooms: Rooms) -> None:
    room = rooms.make(100)
    add(store_of(room), "old", {"w": data("o", 20)})
    park(room, model("parked", k=60), "k")
    plan = await room.plan(model("new", w=70))
    assert (plan.why, plan.victims) == (None, ())
    await room.reserve(model("new", w=70))
    assert here(room) == {"old"}


async def test_mending_a_model_larger_than_half_the_store_does_not_evict_it(rooms: Rooms) -> None:
    room = rooms.make(100)
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


async def test_a_damaged_file_that_a_snapshot_still_has_goes_on_counting(rooms: Rooms) -> None:
    room = rooms.make(100)
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
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    room = rooms.make(100)
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


async def test_a_budget_counts_what_fills_have_and_what_is_shared_once(rooms: Rooms) -> None:
    room = rooms.make(1000, budgets={"s3://bucket/": Size(100 * KB)})
    await room.reserve(model("one", w=60))
    await room.reserve(model("one", w=60))  # Another ref of the same files: nothing more is needed.
    with pytest.raises(AllHeld, match="budget"):
        await room.reserve(model("two", w=60))
