"""What a user may lose to others: nothing within its share, whatever those above theirs hold, lease or let run."""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import dataclass, replace

import pytest

from cached.config import Duration, Share, Size
from cached.daemon.space.books import Books, decide
from cached.daemon.space.eviction_policy import Candidate, Rows, Wish
from cached.model import Digest
from cached.store.index.promises import FillRow, Reservation
from tests.daemon.rooms import KB, Rooms, bring, come, here, lease, model, reserve, running, store_of
from tests.daemon.test_user_share import GREEDY, MODEST, THIRD, aged, given

FOURTH = 4004


async def test_a_fill_that_holds_the_files_of_its_users_own_model_gives_way_with_it(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.33))
    await aged(room, "old", MODEST, w=10)
    await bring(room, "m", GREEDY, w=80)
    async with running(room, await reserve(room, "m", GREEDY, w=80, x=1)) as fill:
        await bring(room, "new", THIRD, w=20)
        assert fill.done() and here(room) == {"old", "new"}


async def test_two_users_whose_fills_hold_each_others_models_give_way_as_well(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.33))
    await bring(room, "g", GREEDY, w=45)
    await bring(room, "t", THIRD, w=45)
    ours, theirs = await reserve(room, "t", GREEDY, w=45, x=1), await reserve(room, "g", THIRD, w=45, x=1)
    async with running(room, ours), running(room, theirs):
        await bring(room, "new", MODEST, w=30)
        assert "new" in here(room)


async def test_a_fill_that_has_all_its_bytes_is_not_waited_for(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.3), min_residency=Duration(600))
    await aged(room, "idle", None, w=30)
    complete = await reserve(room, "g", GREEDY, w=55)
    await room.run(complete, come(room, complete))
    async with asyncio.timeout(60):
        await bring(room, "new", MODEST, w=25)
    assert here(room) == {"new"}
    await room.abandon(complete)


async def test_a_fill_is_not_stopped_where_something_idle_is_nobodys(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.3), min_residency=Duration(600))
    await aged(room, "idle", None, w=30)
    reserved = await reserve(room, "g", GREEDY, x=55, y=5)
    await come(room, reserved, "x")
    async with running(room, reserved) as fill:
        await bring(room, "new", MODEST, w=25)
        assert not fill.done() and here(room) == {"new"}


async def test_a_fill_below_a_budget_stops_nobody_when_the_disk_has_no_room_for_it(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.1), budgets={"s3://bucket/team/": Size(62 * KB)})
    fd = lease(room, await bring(room, "big", None, w=60))
    await aged(room, "team/old", MODEST, w=10)
    await aged(room, "team/other", THIRD, w=8)
    reserved = await reserve(room, "team/g", GREEDY, x=20, y=1)
    await come(room, reserved, "x")
    async with running(room, reserved) as fill:
        assert (await room.plan(model("team/new", w=42), None)).why is not None
        assert not fill.done()
    os.close(fd)


async def test_who_has_more_than_its_share_may_go_on_replacing_what_others_once_used(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.5))
    await bring(room, "other", MODEST, w=50)
    for name in "ab":
        given(room, await bring(room, name, GREEDY, w=25), THIRD)
    room._disk.uses.flush()
    with store_of(room).index.transaction() as db:
        db.execute("UPDATE snapshot SET created_at = 1, used_at = 1 WHERE brought_by = ?", (GREEDY,))
    await bring(room, "new", GREEDY, w=10)
    assert here(room) == {"other", "b", "new"}


async def test_what_is_nobodys_and_used_by_a_user_stays_for_it_as_well(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.33), min_residency=Duration(600))
    given(room, await bring(room, "base", None, w=30), MODEST)
    room._disk.uses.flush()
    with store_of(room).index.transaction() as db:
        db.execute("UPDATE snapshot SET created_at = 0, used_at = 0")
    await bring(room, "g", GREEDY, w=70)
    await bring(room, "h", GREEDY, w=70)
    assert here(room) == {"base", "h"}


async def test_a_revision_that_shares_its_files_with_a_users_own_costs_it_the_rest_alone(rooms: Rooms) -> None:
    room = rooms.make(150, user_share=Share(0.33))
    await bring(room, "base", MODEST, w=35)
    given(room, await bring(room, "base", GREEDY, w=35, v=5), MODEST)
    room._disk.uses.flush()
    await bring(room, "g", GREEDY, w=45)
    await bring(room, "h", GREEDY, w=45)
    await bring(room, "i", GREEDY, w=60)
    assert len(store_of(room).index.query("SELECT 1 FROM snapshot WHERE source = 's3://bucket/base'")) == 2


# The watermark.


async def test_below_the_limit_of_a_disk_that_others_fill_nobody_is_spared(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.3))
    await aged(room, "old", MODEST, w=25)
    leased = await bring(room, "g", GREEDY, w=60)
    room = rooms.make(80, user_share=Share(0.3))
    fd = lease(room, leased)
    await room.keep_below()
    assert here(room) == {"g"}
    os.close(fd)


async def test_what_is_nobodys_goes_at_a_watermark_whatever_others_hold(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.3), high_watermark=0.9, low_watermark=0.85)
    await aged(room, "idle", None, w=30)
    fd = lease(room, await bring(room, "g", GREEDY, w=65))
    await room.keep_below()
    assert here(room) == {"g"}
    os.close(fd)


async def test_what_a_fill_has_not_yet_is_not_owed(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.45), high_watermark=0.9, low_watermark=0.3)
    await aged(room, "idle", None, w=60)
    await aged(room, "old", MODEST, w=35)
    with store_of(room).index.transaction() as db:
        db.execute("UPDATE snapshot SET used_at = 5 WHERE brought_by = ?", (MODEST,))
    reserved = await reserve(room, "huge", GREEDY, w=60)
    await room.keep_below()
    assert here(room) == set()
    await room.abandon(reserved)


async def test_what_one_gives_back_too_much_is_not_what_another_owes(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.25), high_watermark=0.9, low_watermark=0.55)
    await aged(room, "old", MODEST, w=10)
    await aged(room, "third", THIRD, w=26)
    fd = lease(room, await bring(room, "g", GREEDY, w=60))
    await room.keep_below()
    assert here(room) == {"old", "g"}
    os.close(fd)


async def test_what_a_collection_would_take_is_what_it_takes_though_models_share_files(rooms: Rooms) -> None:
    room = rooms.make(100, user_share=Share(0.4), high_watermark=0.9, low_watermark=0.7)
    await aged(room, "x", THIRD, w=30)
    await aged(room, "old", MODEST, w=20)
    await aged(room, "x", GREEDY, w=30, v=45)
    wish, need = Wish("to collect", spare_young=True, spare_within=True), room.excess(0.7)
    plan = await room.make(need, wish, dry_run=True)
    deed = await room.make(need, wish)
    assert [victim.digest for victim in plan.victims] == [victim.digest for victim in deed.victims]
    assert "old" in here(room)


async def test_what_has_landed_since_the_rows_were_read_is_no_reason_for_anything_to_go(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = rooms.make(100)
    await bring(room, "m", w=60)
    real = store_of(room).usage()
    assert room.excess(1.0) == 0
    monkeypatch.setattr(store_of(room), "usage", lambda: replace(real, landed=50 * KB))  # In the room of what has gone.
    assert room.excess(1.0) == room.excess(0.7) == 0
    await room.keep_below()
    assert here(room) == {"m"}


# On thousands of stores.

LIMIT = 120


@dataclass(frozen=True)
class Case:
    books: Books
    wish: Wish

    @property
    def candidates(self) -> dict[Digest, Candidate]:
        return {candidate.digest: candidate for candidate in self.books.rows.candidates}


def case(seed: int) -> Case:
    """Users whose shares add up to the limit, with models that share no files, and fills, some of which hold those of
    models that are here."""
    chance = random.Random(seed)
    users = list(range(1, chance.choice([3, 4, 5])))
    sizes: dict[str, int] = {}
    candidates: list[Candidate] = []
    for number in range(chance.randint(1, 8)):
        size = chance.randint(1, 60)
        if sum(sizes.values()) + size > LIMIT:
            continue
        sizes[f"b{number}"] = size
        uid = chance.choice(users)
        shared = tuple((chance.random(), other) for other in users if other != uid and chance.random() < 0.3)
        digest, at = Digest(f"{number:064x}"), chance.random()
        candidates.append(Candidate(digest, "m", at, frozenset({f"b{number}"}), brought_by=uid, shared=shared))
    fills: list[FillRow] = []
    reservations: dict[str, Reservation] = {}
    for number in range(chance.randint(0, 3)):
        size, free = chance.randint(1, 60), LIMIT - sum(sizes.values()) - sum(r.bytes for r in reservations.values())
        reservations[f"k{number}"] = Reservation(chance.randint(0, max(0, min(size, free))), size)
        uid = chance.choice(users)
        own = [candidate.blobs for candidate in candidates if candidate.brought_by == uid]
        holds = chance.choice(own) if own and chance.random() < 0.5 else frozenset[str]()
        fills.append(FillRow(number + 1, "f", uid, frozenset({f"k{number}"}), holds))
    held = frozenset[str]().union(*(fill.holds for fill in fills))
    rows = Rows(tuple(candidates), sizes, held)
    used, share = sum(sizes.values()), LIMIT // len(users)
    wish = Wish("x", wants={"new": chance.randint(1, 60)}, uid=chance.choice(users))
    return Case(Books(LIMIT, used, rows, reservations, tuple(fills), {}, share), wish)


@pytest.mark.parametrize("start", range(0, 4000, 500))
def test_as_long_as_the_shares_fit_nobody_within_its_own_loses_anything_or_is_refused(start: int) -> None:
    for seed in range(start, start + 500):
        tried = case(seed)
        above = tried.books.accounts(tried.wish).above
        decision = decide(tried.books, tried.wish, None, ())
        if tried.wish.uid not in above:
            assert decision.possible, seed
        assert all(tried.candidates[victim.digest].brought_by in above for victim in decision.victims), seed
