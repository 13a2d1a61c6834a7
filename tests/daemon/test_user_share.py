"""What one user may take from others: nothing, once it has more than its share."""

from __future__ import annotations

import contextlib
import os

import pytest

from cached.config import Duration, Share, Size
from cached.daemon.runtime.peer import Peer
from cached.daemon.space import greed
from cached.daemon.space.eviction_policy import Wish
from cached.daemon.space.reservation import Room
from cached.errors import AllHeld, StoreDegraded, TooLarge
from cached.model import Digest
from cached.store.index import trim
from tests.daemon.rooms import KB, Rooms, bring, come, here, lease, model, ready, reserve, running, store_of, used

GREEDY, MODEST, THIRD = 4001, 4002, 4003


def given(room: Room, digest: Digest, uid: int) -> None:
    """Handed out to that user just now."""
    used(room, [digest])
    room._disk.uses.given(digest, Peer(os.getpid(), uid, uid))


async def aged(room: Room, name: str, uid: int, **sizes: int) -> None:
    """Brought, and not used for ever."""
    digest = await bring(room, name, uid, **sizes)
    with store_of(room).index.transaction() as db:
        db.execute("UPDATE snapshot SET created_at = 0, used_at = 0 WHERE digest = ?", (digest.hex,))


async def test_who_would_have_more_than_its_share_makes_room_of_its_own(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.5))
    await bring(room, "theirs", MODEST, w=40)
    for name in "ab":
        await bring(room, name, GREEDY, w=25)
    await bring(room, "c", GREEDY, w=25)
    assert here(room) == {"theirs", "b", "c"}
    await bring(room, "d", GREEDY, w=50)
    assert here(room) == {"theirs", "d"}


async def test_who_would_have_more_than_its_share_takes_nothing_that_others_brought(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.5))
    for name in "ab":
        await bring(room, name, MODEST, w=25)
    await bring(room, "own", GREEDY, w=20)
    plan = await room.plan(model("huge", w=90), GREEDY)
    with pytest.raises(AllHeld, match="`user_share`") as refused:
        await reserve(room, "huge", GREEDY, w=90)
    assert plan.why == refused.value.message
    assert here(room) == {"a", "b", "own"}
    await bring(room, "fits", GREEDY, w=50)
    assert here(room) == {"a", "b", "fits"}


async def test_free_room_is_for_everybody(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.2))
    await bring(room, "huge", GREEDY, w=95)
    assert here(room) == {"huge"}


async def test_administrators_and_the_daemon_have_no_share(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.2), max_model_size=Size(10 * KB))
    await bring(room, "theirs", MODEST, w=10)
    await bring(room, "huge", None, w=95)
    assert here(room) == {"huge"}


async def test_what_a_user_has_above_its_share_goes_first_for_others_however_young_or_used(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.4), min_residency=Duration(3600))
    await aged(room, "old", MODEST, w=20)
    hot = [await bring(room, name, GREEDY, w=40) for name in "ab"]
    used(room, hot)
    await bring(room, "new", MODEST, w=10)
    assert here(room) == {"old", "b", "new"}, "beyond its share it has nothing now"
    await bring(room, "big", None, w=40)
    assert here(room) == {"b", "new", "big"}, "the least recently used"


async def test_a_watermark_takes_what_is_above_a_share_first(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.4), min_residency=Duration(3600), high_watermark=0.9, low_watermark=0.8)
    await aged(room, "old", MODEST, w=20)
    for name in "abc":
        await bring(room, name, GREEDY, w=25)
    await room.keep_below()
    assert here(room) == {"old", "b", "c"}


async def test_as_long_as_shares_fit_nothing_goes_of_who_stays_within_its_own(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.33))
    mine = [await bring(room, name, MODEST, w=10) for name in ("x", "y")]
    for turn in range(6):
        for uid in (GREEDY, THIRD):
            try:
                await bring(room, f"{uid}-{turn}", uid, w=24)
            except AllHeld:
                pass
            assert {"x", "y"} <= here(room)
    await bring(room, "z", MODEST, w=12)
    assert {"x", "y", "z"} <= here(room)
    assert all(store_of(room).snapshots.path(digest).is_dir() for digest in mine)


async def test_what_others_use_is_not_taken_from_them_for_who_was_quicker_to_bring_it(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.5), min_residency=Duration(0))
    shared = await bring(room, "shared", GREEDY, w=40)
    await bring(room, "own", GREEDY, w=40)
    given(room, shared, MODEST)
    room._disk.uses.flush()
    with store_of(room).index.transaction() as db:
        db.execute("UPDATE snapshot SET created_at = 0, used_at = 0 WHERE digest = ?", (shared.hex,))
        db.execute("UPDATE sharing SET at = 1")
    await bring(room, "new", GREEDY, w=40)
    assert here(room) == {"shared", "new"}
    given(room, shared, GREEDY)
    with pytest.raises(AllHeld):
        await reserve(room, "huge", GREEDY, w=70)


async def test_users_above_their_shares_keep_nothing_by_using_each_others_models(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.2), min_residency=Duration(600))
    await aged(room, "old", MODEST, w=5)
    for turn in range(12):
        for uid, other in (GREEDY, THIRD), (THIRD, GREEDY):
            with contextlib.suppress(AllHeld):
                given(room, await bring(room, f"{uid}-{turn}", uid, w=5), other)
    await bring(room, "new", MODEST, w=5)
    assert {"old", "new"} <= here(room)
    await bring(room, "more", MODEST, w=10)
    assert {"old", "new", "more"} <= here(room)


async def test_what_a_user_shares_stays_for_it_as_far_as_its_own_share_has_room(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.25))
    await bring(room, "own", MODEST, w=5)
    brought = {name: await bring(room, name, GREEDY, w=10) for name in "abcdefg"}
    for name in "cab":
        given(room, brought[name], MODEST)
    used(room, [brought[name] for name in "defg"])
    await bring(room, "third", THIRD, w=25)
    await bring(room, "fourth", THIRD + 1, w=25)
    assert here(room) == {"own", "a", "b", "f", "g", "third", "fourth"}, "what it used last, in the 20 that are left"


async def test_no_snapshot_is_remembered_for_any_number_of_users(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.5))
    shared = await bring(room, "shared", GREEDY, w=10)
    for uid in range(5000, 5000 + trim.SHARERS + 20):
        given(room, shared, uid)
    room._disk.uses.flush()
    rows = store_of(room).index.query("SELECT uid FROM sharing")
    assert len(rows) == trim.SHARERS
    given(room, shared, 5000)
    room._disk.uses.flush()
    assert 5000 in {row["uid"] for row in store_of(room).index.query("SELECT uid FROM sharing")}


async def test_what_is_nobodys_goes_after_its_own_when_it_has_not_been_used_for_a_while(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.5), min_residency=Duration(3600))
    idle, hot = [await bring(room, name, None, w=30) for name in ("idle", "hot")]
    with store_of(room).index.transaction() as db:
        db.execute("UPDATE snapshot SET created_at = 0, used_at = 0")
    used(room, [hot])
    await bring(room, "own", GREEDY, w=30)
    await bring(room, "big", GREEDY, w=60)
    assert here(room) == {"hot", "big"} and idle != hot
    with pytest.raises(AllHeld):
        await reserve(room, "bigger", GREEDY, w=75)


async def test_a_stalled_fill_above_its_share_gives_way_to_who_is_within(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.5))
    await bring(room, "theirs", MODEST, w=20)
    stalled = await reserve(room, "stalled", GREEDY, x=10, y=70)
    await come(room, stalled, "x")
    assert store_of(room).usage().reserved == 0, "free room is not set aside for who has more than its share"
    await bring(room, "new", MODEST, w=25)
    assert here(room) == {"theirs", "new"}
    with pytest.raises(AllHeld):
        await come(room, stalled, "y")
    await room.abandon(stalled)


async def test_a_fill_above_its_share_gives_way_before_anything_of_who_is_within_goes(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.3))
    await aged(room, "old", MODEST, w=10)
    greedy = await reserve(room, "greedy", GREEDY, x=80, y=5)
    await come(room, greedy, "x")
    async with running(room, greedy) as fill:
        await bring(room, "new", THIRD, w=20)
        with pytest.raises(AllHeld, match="what has landed is kept"):
            await fill
    assert here(room) == {"old", "new"}


@pytest.mark.parametrize("how", ["running", "leased"])
async def test_a_watermark_takes_nothing_of_who_is_within_its_share_for_who_is_above(rooms: Rooms, how: str) -> None:
    room = rooms.make(100, user_share=Share(0.3), high_watermark=0.9, low_watermark=0.5)
    await aged(room, "old", MODEST, w=10)
    await aged(room, "also", THIRD, w=5)
    await bring(room, "own", GREEDY, w=5)
    greedy = await reserve(room, "greedy", GREEDY, x=75)
    if how == "running":
        await come(room, greedy)
        await room.keep_below()
        assert here(room) == {"old", "also"}, "its own went"
        await room.abandon(greedy)
    else:
        lease(room, await ready(room, greedy))
        await room.keep_below()
        assert here(room) == {"old", "also", "greedy"}, "its own went"


async def test_a_watermark_takes_by_use_what_nobody_with_more_than_its_share_owes(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.5), high_watermark=0.9, low_watermark=0.5)
    for name in "abcd":
        await bring(room, name, None, w=20)
    await bring(room, "own", MODEST, w=15)
    await room.keep_below()
    assert here(room) == {"d", "own"}


async def test_a_fill_counts_towards_the_share_before_it_is_ready(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.5))
    for name in "ab":
        await bring(room, name, MODEST, w=24)
    first = await reserve(room, "one", GREEDY, w=45)
    with pytest.raises(AllHeld, match="user_share"):
        await reserve(room, "two", GREEDY, w=45)
    await ready(room, first)
    assert here(room) == {"a", "b", "one"}


async def test_who_brought_a_model_outlives_a_lost_index(rooms: Rooms) -> None:
    room = rooms.make(100)
    digest = await bring(room, "m", GREEDY, w=25)
    root = store_of(room).layout.root
    rooms.close()
    for path in root.glob("index.db*"):
        path.unlink()
    room = rooms.make(100)
    rows = store_of(room).index.query("SELECT digest, brought_by FROM snapshot")
    assert [tuple(row) for row in rows] == [(digest.hex, GREEDY)]


@pytest.mark.parametrize("said", [True, -1, "4001", None, 1 << 40, [1]])
async def test_a_manifest_that_says_nonsense_of_who_brought_it_is_nobodys(rooms: Rooms, said: object) -> None:
    import json

    room = rooms.make(100)
    digest = await bring(room, "m", GREEDY, w=25)
    path = store_of(room).snapshots.manifest(digest)
    raw = json.loads(path.read_text())
    path.chmod(0o644)
    path.write_text(json.dumps({**raw, "brought_by": said}))
    read = store_of(room).snapshots.read(digest)
    assert read is not None and read[1].brought_by is None
    room = rooms.make(100)
    assert [row[0] for row in store_of(room).index.query("SELECT brought_by FROM snapshot")] == [None]


async def test_a_user_fetches_no_model_that_is_larger_than_the_setting_lets_it(rooms: Rooms) -> None:
    room = rooms.make(100, max_model_size=Size(30 * KB))
    with pytest.raises(TooLarge, match=f"{31 * KB:,} bytes, and `max_model_size` .* {30 * KB:,}"):
        await reserve(room, "large", MODEST, x=30, y=1)
    await bring(room, "large", None, x=30, y=1)
    await bring(room, "large", MODEST, x=30, y=1)  # Of what is here nothing is fetched.
    await bring(room, "fits", MODEST, w=30)


async def test_operators_who_want_room_take_what_is_above_a_share_first(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.4))
    await bring(room, "old", MODEST, w=20)
    for name in "ab":
        await bring(room, name, GREEDY, w=40)
    assert [victim.source[-1] for victim in (await room.make(30 * KB, Wish("for an operator"))).victims] == ["a"]


async def test_a_leased_model_of_its_own_stays_and_the_fill_is_refused(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.5))
    await bring(room, "theirs", MODEST, w=40)
    fd = lease(room, await bring(room, "own", GREEDY, w=50))
    with pytest.raises(AllHeld, match="user_share"):
        await reserve(room, "more", GREEDY, w=20)
    os.close(fd)
    await bring(room, "more", GREEDY, w=20)
    assert here(room) == {"theirs", "more"}


def test_a_share_is_a_part_of_the_limit_or_a_size() -> None:
    found = {text: Share.parse(text).of(1000) for text in ("0.5", "1", "0", "400", "0.4kB", "2GiB")}
    assert found == {"0.5": 500, "1": None, "0": 0, "400": 400, "0.4kB": 400, "2GiB": 2 << 30}


async def test_who_was_given_what_is_written_down_by_the_next_flush_when_one_fails(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = rooms.make(100)
    digest = await bring(room, "m", GREEDY, w=10)
    given(room, digest, MODEST)

    def fail(*_: object) -> None:
        raise StoreDegraded("The disk does not take it.")

    with monkeypatch.context() as patch, pytest.raises(StoreDegraded):
        patch.setattr(store_of(room).index, "touch", fail)
        room._disk.uses.flush()
    room._disk.uses.flush()
    assert store_of(room).index.query("SELECT uid FROM sharing")[0]["uid"] == MODEST


async def test_books_are_opened_only_for_who_is_near_its_share(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    room = rooms.make(100, user_share=Share(0.5))
    opened: list[int | None] = []
    books = room._evictor.books
    monkeypatch.setattr(room._evictor, "books", lambda wish, look=True: opened.append(wish.uid) or books(wish, look))
    for number in range(4):
        await bring(room, f"m{number}", MODEST, w=10)
        await bring(room, f"n{number}", None, w=5)
    assert opened == []
    await bring(room, "last", MODEST, w=20)
    assert MODEST in opened


async def test_a_quick_look_never_says_less_than_counts_towards_a_share(rooms: Rooms) -> None:
    room = rooms.make(1000, user_share=Share(0.0))
    running = []
    for number in range(6):
        uid = (MODEST, GREEDY)[number % 2]
        await bring(room, f"m{number}", uid, w=10 + number, shared=7)
        running.append(await reserve(room, f"r{number}", uid, w=20 + number, shared=7))
        for asks in (MODEST, GREEDY, THIRD):
            wish = Wish("x", wants={"key": 5 * KB}, uid=asks, overhead=KB)
            exact = room._evictor.books(wish, look=False).accounts(wish).above
            assert greed.most(store_of(room), wish) >= exact[asks] > 0
    for each in running:
        await room.abandon(each)
