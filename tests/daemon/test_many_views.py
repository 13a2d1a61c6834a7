"""Many views of the same tiny files cost their user its own models, and nobody else's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cached.config import Duration, Share
from cached.daemon.space.eviction_policy import Wish
from cached.daemon.space.reservation import Room
from cached.errors import AllHeld, TooLarge
from cached.model import Digest, Entry, Listing
from cached.model_ref import ModelRef
from cached.store import overhead, usage
from tests.daemon.rooms import KB, Rooms, bring, here, lease, model, ready, store_of

HOG, MODEST, THIRD = 4001, 4002, 4003
FILES = 9
SPARE = 40  # KB.


@pytest.fixture
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rooms]:
    """Where a snapshot takes a KB beside its blobs, and another for each file, and the index takes nothing."""
    monkeypatch.setattr(overhead, "A_SNAPSHOT", KB)
    monkeypatch.setattr(overhead, "A_FILE", KB)
    monkeypatch.setattr(overhead, "SPARE", SPARE * KB)
    monkeypatch.setattr(usage, "index_bytes", lambda layout: 0)
    made = Rooms(tmp_path)
    yield made
    made.close()


def view(number: int) -> Listing:
    """Of the same few tiny files all but one, or two: no two numbers below 45 mean the same."""
    pairs = [(a, b) for a in range(FILES) for b in range(a, FILES)]
    ref = ModelRef.parse("s3://bucket/tiny", include=[f"view{number}"])
    entries = tuple(Entry(f"f{each}", 1, "v1") for each in range(FILES) if each not in pairs[number])
    return Listing(ref, str(ref), "revision", entries)


def views(room: Room) -> list[str]:
    """Digests, those that were used longest ago first."""
    rows = store_of(room).index.query("SELECT digest FROM snapshot WHERE source = 's3://bucket/tiny' ORDER BY used_at")
    return [row["digest"] for row in rows]


async def pull(room: Room, number: int) -> Digest:
    """As planned: what goes is what the plan says."""
    listing, before = view(number), set(views(room)) | here(room)
    plan = await room.plan(listing, HOG)
    digest = await ready(room, await room.reserve(listing, HOG))
    gone = before - set(views(room)) - here(room)
    assert gone == {victim.digest.hex for victim in plan.victims}
    return digest


@pytest.mark.parametrize("share", [0.4, 1.0], ids=["with shares", "without"])
async def test_who_has_many_views_of_tiny_files_loses_its_own_and_nobody_elses(rooms: Rooms, share: float) -> None:
    room = rooms.make(100, user_share=Share(share), min_residency=Duration(3600))
    for name in "ab":
        await bring(room, name, MODEST, w=20)
    for number in range(20):
        digest = await pull(room, number)
        assert {"a", "b"} <= here(room)
        assert digest.hex in views(room), "what was asked for is there"
    assert len(views(room)) < 20
    now = store_of(room).usage()
    assert now.used + now.reserved <= now.limit
    await bring(room, "c", THIRD, w=15)
    assert {"a", "b", "c"} <= here(room), "and others have room as before"


async def test_as_long_as_views_fit_into_what_is_spared_they_take_no_room(rooms: Rooms) -> None:
    room = rooms.make(100)
    before = store_of(room).usage().limit
    for number in range(4):
        await pull(room, number)
    assert len(views(room)) == 4
    assert store_of(room).usage().limit == before


async def test_room_for_a_snapshot_is_set_aside_while_it_is_fetched_and_is_free_when_that_ends(rooms: Rooms) -> None:
    room = rooms.make(100)
    running = await room.reserve(model("m", **{f"f{number}": 1 for number in range(50)}), HOG)
    assert store_of(room).overhead().taken == 51 * KB
    assert store_of(room).usage().limit == (100 - (51 - SPARE)) * KB
    await room.abandon(running)
    assert store_of(room).overhead().taken == 0
    await bring(room, "m", HOG, **{f"f{number}": 1 for number in range(50)})
    assert store_of(room).overhead().taken == 51 * KB


async def test_no_bytes_are_set_aside_for_blobs_where_its_snapshot_will_take_them(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(1))
    await bring(room, "theirs", MODEST, w=40)
    running = await room.reserve(model("m", **{f"f{number}": 1 for number in range(55)}), HOG)
    now = store_of(room).usage()
    assert now.used + now.reserved == now.limit == (100 - 58 + SPARE) * KB
    assert "theirs" in here(room), "what lacks is promised, and goes when the bytes come"
    await room.abandon(running)


async def test_where_there_is_no_room_for_a_snapshot_what_is_promised_goes_at_once_and_it_is_set_aside(
    rooms: Rooms,
) -> None:
    room = rooms.make(100, user_share=Share(1))
    await bring(room, "theirs", MODEST, w=95)
    running = await room.reserve(model("m", **{f"f{number}": 1 for number in range(50)}), HOG)
    assert here(room) == set()
    assert store_of(room).overhead().taken == 51 * KB
    await room.abandon(running)


async def test_what_does_not_go_after_all_leaves_no_fill_behind(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    room = rooms.make(100, user_share=Share(1))
    await bring(room, "theirs", MODEST, w=95)
    monkeypatch.setattr(store_of(room), "evict", lambda digest, why: False)  # As if leased since it was looked at.
    with pytest.raises(AllHeld):
        await room.reserve(model("m", **{f"f{number}": 1 for number in range(50)}), HOG)
    assert store_of(room).promises.fills() == []
    assert store_of(room).usage().reserved == 0


async def test_who_cannot_lose_its_own_views_is_refused_another(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.4))
    await bring(room, "theirs", MODEST, w=40)
    held: list[int] = []
    with pytest.raises(AllHeld) as refused:
        for number in range(20):
            plan = await room.plan(view(number), HOG)
            held.append(lease(room, await ready(room, await room.reserve(view(number), HOG))))
            assert plan.refusal is None
    assert plan.why == refused.value.message
    assert "theirs" in here(room)
    assert store_of(room).promises.fills() == []
    for fd in held:
        os.close(fd)


async def test_views_that_cost_nothing_to_make_again_go_first_for_who_wants_room(rooms: Rooms) -> None:
    room = rooms.make(100)
    await bring(room, "theirs", MODEST, w=40)
    for number in range(8):
        await pull(room, number)
    wish = Wish("for an operator")
    planned = await room.make(15 * KB, wish, dry_run=True)
    done = await room.make(15 * KB, wish)
    assert done == planned and {victim.source for victim in done.victims} == {"s3://bucket/tiny"}
    assert "theirs" in here(room) and done.short == 0


async def test_a_model_of_so_many_files_that_an_empty_store_could_not_take_it_is_too_large(rooms: Rooms) -> None:
    room = rooms.make(100)
    many = {f"f{number}": 1 for number in range(75)}
    await bring(room, "fits", HOG, **dict(list(many.items())[:65]))
    with pytest.raises(TooLarge):
        await room.reserve(model("many", **many), HOG)
