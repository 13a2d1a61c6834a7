"""A reservation promises what is to go for it; it goes when its room is needed, and not before."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cached.config import Size
from cached.daemon.space.books import decide
from cached.daemon.space.disk import Disk
from cached.daemon.space.eviction_policy import Wish
from cached.errors import AllHeld
from cached.model import PIECE_BYTES, Entry, Listing
from cached.model_ref import ModelRef
from cached.store.blobs.blobs import ingest_key
from tests.daemon.rooms import KB, Rooms, bring, come, here, lease, model, on_disk, ready, reserve, store_of, used

WEIGHTS = Entry("w", 2 * PIECE_BYTES, "v1")


async def test_what_is_promised_stays_until_its_room_is_needed_and_goes_one_by_one(rooms: Rooms) -> None:
    room = rooms.make(100)
    for name in "abcd":
        await bring(room, name, w=25)
    reserved = await reserve(room, "new", x=20, y=20, z=20)
    assert here(room) == set("abcd")
    await come(room, reserved, "x")
    assert here(room) == set("bcd")
    await come(room, reserved, "y")
    assert here(room) == set("cd")
    await ready(room, reserved)
    assert here(room) == {"d", "new"}


async def test_what_a_fill_has_landed_stays_reserved_though_another_ends_at_the_same_time(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(rooms.make(1 << 20))
    fills = []
    for name in ("one", "other"):
        listing = Listing(ref := ModelRef.parse(f"s3://bucket/{name}"), str(ref), "r", (WEIGHTS,))
        key = ingest_key(listing.identity(WEIGHTS), None)
        fills.append((key, store.index.begin(str(ref), {key: WEIGHTS.size}, [], store.usage().limit)))
    (_, one), (key, other) = fills
    assert one is not None and other is not None
    parts = store.blobs.parts

    def end() -> None:
        """Of the other: a piece lands before."""
        ingest = store.blobs.ingest(key, WEIGHTS)
        piece = ingest.missing()[0]
        ingest.land(piece, os.urandom(piece.length))
        ingest.close()
        asyncio.run(Disk(store).abandon(other))

    ending = threading.Thread(target=end)

    def look() -> dict[str, int]:
        found = parts()
        if ending.ident is None:
            ending.start()
            ending.join(1)  # It is over by then, or waits for this look to be.
        return found

    monkeypatch.setattr(store.blobs, "parts", look)
    await Disk(store).abandon(one)
    ending.join(20)
    usage = store.usage()
    assert usage.reserved == usage.landed > 0
    assert store.parked() == [key]


async def test_an_abandoned_fill_takes_nothing_and_gives_back_what_it_has_not_used(rooms: Rooms) -> None:
    room = rooms.make(100)
    for name in "abcd":
        await bring(room, name, w=20)
    reserved = await reserve(room, "huge", w=95)
    assert store_of(room).usage().reserved == 20 * KB, "what was free"
    await room.abandon(reserved)
    assert here(room) == set("abcd")
    assert store_of(room).usage().reserved == 0
    assert store_of(room).promises.promised() == {}


async def test_of_an_abandoned_download_only_what_lies_on_the_disk_stays_reserved(rooms: Rooms) -> None:
    room = rooms.make(20_000)
    reserved = await reserve(room, "huge", w=16_000)
    ((key, entry),) = reserved.needs.wants.items()
    ingest = store_of(room).blobs.ingest(key, entry)
    piece = ingest.missing()[0]
    with ingest.landing(piece) as landing:
        landing.write(memoryview(bytes(piece.length)))
    ingest.close()
    await room.abandon(reserved)
    assert store_of(room).usage().reserved == on_disk(room) * KB
    again = await reserve(room, "huge", w=16_000)
    assert store_of(room).usage().reserved == entry.size
    await room.abandon(again)


@pytest.mark.parametrize("how", ["leased", "pinned", "used"])
async def test_what_is_promised_and_leased_pinned_or_used_meanwhile_is_replaced(rooms: Rooms, how: str) -> None:
    room = rooms.make(100)
    digests = {name: await bring(room, name, w=30) for name in "abc"}
    reserved = await reserve(room, "new", w=30)
    assert set(store_of(room).promises.promised()) == {digests["a"]}
    if how == "leased":
        fd = lease(room, digests["a"])
    elif how == "pinned":
        store_of(room).index.pin(digests["a"], None, 0)
    else:
        used(room, [digests["a"]])
    await ready(room, reserved)
    assert here(room) == {"a", "c", "new"}
    if how == "leased":
        os.close(fd)


async def test_what_is_promised_to_one_fill_is_promised_to_no_other(rooms: Rooms) -> None:
    room = rooms.make(100)
    for name in "abcd":
        await bring(room, name, w=25)
    first, second = await reserve(room, "one", w=45), await reserve(room, "two", w=45)
    promised = store_of(room).promises.promised()
    assert sorted(promised.values()) == [first.fill] * 2 + [second.fill] * 2
    with pytest.raises(AllHeld):
        await reserve(room, "three", w=11)
    await room.abandon(first)
    await ready(room, await reserve(room, "three", w=11))
    await ready(room, second)
    assert {"two", "three"} <= here(room)


async def test_a_fill_that_finds_nothing_left_ends_and_keeps_what_has_landed(rooms: Rooms) -> None:
    room = rooms.make(100)
    digests = [await bring(room, name, w=25) for name in "abcd"]
    reserved = await reserve(room, "new", x=20, y=40)
    await come(room, reserved, "x")
    fds = [lease(room, digest) for digest in digests[1:]]
    with pytest.raises(AllHeld, match=r"what has landed is kept") as refused:
        await come(room, reserved, "y")
    assert refused.value.retryable
    await room.abandon(reserved)
    for fd in fds:
        os.close(fd)
    again = await reserve(room, "new", x=20, y=40)
    assert [entry.path for entry in again.needs.wants.values()] == ["y"]
    await ready(room, again)
    assert "new" in here(room)


async def test_of_two_half_fills_the_younger_gives_way_and_the_older_completes(rooms: Rooms) -> None:
    room = rooms.make(100)
    digests = [await bring(room, name, w=25) for name in "abcd"]
    older, younger = await reserve(room, "older", x=20, y=25), await reserve(room, "younger", x=20, y=25)
    await come(room, older, "x")
    await come(room, younger, "x")
    fds = [lease(room, digest) for digest in digests[1::2]]  # They count on those for the rest.
    asked, never = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        asked.set()
        await never.wait()

    async def fill() -> None:
        try:
            await room.run(younger, hang())
        finally:
            await room.abandon(younger)

    running = asyncio.create_task(fill())
    await asked.wait()
    async with asyncio.timeout(60):
        await ready(room, older)
        with pytest.raises(AllHeld, match="what has landed is kept"):
            await running
    assert here(room) == {"b", "d", "older"}
    for fd in fds:
        os.close(fd)
    async with asyncio.timeout(60):
        await bring(room, "younger", x=20, y=25)
    assert "younger" in here(room)


async def test_two_fills_that_ask_at_once_do_not_wait_for_each_other_for_ever(rooms: Rooms) -> None:
    room = rooms.make(100)
    digests = [await bring(room, name, w=25) for name in "abcd"]
    fills = [await reserve(room, name, x=20, y=25) for name in ("one", "two")]
    for each in fills:
        await come(room, each, "x")
    fds = [lease(room, digest) for digest in digests[1::2]]

    async def fill(number: int) -> None:
        try:
            await room.run(fills[number], come(room, fills[number], "y"))
            await ready(room, fills[number])
        except BaseException:
            await room.abandon(fills[number])
            raise

    async with asyncio.timeout(60):
        ended = await asyncio.gather(fill(1), fill(0), return_exceptions=True)
    assert isinstance(ended[0], AllHeld) and ended[1] is None
    assert here(room) == {"b", "d", "one"}
    for fd in fds:
        os.close(fd)


async def test_a_fill_that_could_not_complete_all_the_same_stops_no_other(rooms: Rooms) -> None:
    room = rooms.make(100)
    digests = [await bring(room, name, w=25) for name in "abcd"]
    older, younger = await reserve(room, "older", x=20, y=50), await reserve(room, "younger", z=5)
    await come(room, older, "x")
    fds = [lease(room, digest) for digest in digests[1:]]
    with pytest.raises(AllHeld):
        await come(room, older, "y")
    await room.abandon(older)
    await ready(room, younger)
    assert "younger" in here(room)
    for fd in fds:
        os.close(fd)


async def test_what_has_come_since_a_fill_was_looked_at_needs_no_second_room(rooms: Rooms) -> None:
    room = rooms.make(100)
    for name in "ab":
        await bring(room, name, w=45)
    reserved = await reserve(room, "new", x=40, y=45)
    (fill,) = store_of(room).promises.fills()
    wish = room._steps._wish(fill)
    await come(room, reserved, "x")
    decision = decide(room._evictor.books(wish), wish, None, frozenset())
    assert decision.short == 0 and len(decision.victims) == 1
    await ready(room, reserved)


async def test_two_fills_for_one_file_take_its_room_once_and_either_may_leave(rooms: Rooms) -> None:
    room = rooms.make(100)
    for name in "ab":
        await bring(room, name, w=45)
    first, second = await reserve(room, "new", w=50), await reserve(room, "new", w=50)
    assert store_of(room).usage().reserved == 10 * KB
    await room.abandon(first)
    assert store_of(room).usage().reserved == 10 * KB
    await ready(room, second)
    assert here(room) == {"b", "new"}


async def test_a_fill_that_is_leaving_holds_nothing_for_itself_while_its_last_read_hangs(rooms: Rooms) -> None:
    room = rooms.make(100)
    for name in "abcd":
        await bring(room, name, w=20)
    leaving = await reserve(room, "huge", w=95)
    asked, read = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            await read.wait()  # A source that does not send.

    running = asyncio.create_task(room.run(leaving, hang()))
    await asked.wait()
    with pytest.raises(AllHeld):
        await reserve(room, "other", w=60)
    running.cancel()
    async with asyncio.timeout(60):
        while store_of(room).promises.promised():
            await asyncio.sleep(0)
    await bring(room, "other", w=60)
    assert "other" in here(room) and not running.done()
    read.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    await room.abandon(leaving)
    assert store_of(room).usage().reserved == 0


async def test_who_takes_up_what_a_leaving_fill_has_given_up_finds_room_for_all_of_it(rooms: Rooms) -> None:
    room = rooms.make(100)
    await bring(room, "a", w=60)
    leaving = await reserve(room, "new", w=90)
    store_of(room).promises.give_up(leaving.fill)
    again = await reserve(room, "new", w=90)
    await room.abandon(leaving)
    await ready(room, again)
    assert here(room) == {"new"}


async def test_a_start_forgets_promises_and_every_victim_is_there(rooms: Rooms) -> None:
    room = rooms.make(100)
    for name in "abcd":
        await bring(room, name, w=25)
    await reserve(room, "new", x=50)
    room = rooms.make(100)
    assert store_of(room).promises.promised() == {} and store_of(room).usage().reserved == 0
    assert here(room) == set("abcd")
    await bring(room, "new", x=50)
    assert here(room) == {"c", "d", "new"}


async def test_the_plan_names_what_goes(rooms: Rooms) -> None:
    room = rooms.make(100, budgets={"s3://bucket/t/": Size(60 * KB)})
    for name in ("a", "t/1", "t/2", "b"):
        await bring(room, name, w=25)
    listing = model("t/3", x=20, y=20)
    plan = await room.plan(listing)
    assert plan.why is None
    before = here(room)
    await ready(room, await room.reserve(listing))
    gone = {victim.source.rpartition("/")[2] for victim in plan.victims}
    assert before - here(room) == gone == {"1", "2"}


async def test_room_that_is_only_set_aside_makes_nothing_go(rooms: Rooms) -> None:
    room = rooms.make(100, high_watermark=0.9, low_watermark=0.5)
    for name in "ab":
        await bring(room, name, w=30)
    reserved = await reserve(room, "huge", w=95)
    await room.keep_below()
    assert here(room) == {"a", "b"}
    await room.abandon(reserved)


async def test_an_operator_who_wants_room_gets_it_and_the_fill_finds_other(rooms: Rooms) -> None:
    room = rooms.make(100)
    for name in "abcd":
        await bring(room, name, w=25)
    reserved = await reserve(room, "new", w=50)
    assert (await room.make(25 * KB, Wish("for an operator"))).short == 0
    await ready(room, reserved)
    assert here(room) == {"c", "d", "new"}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.integers(1, 60), st.integers(0, 60), st.sampled_from([None, 1, 2])),
        st.tuples(st.just("come"), st.integers(0, 5), st.sampled_from("xy")),
        st.tuples(st.just("end"), st.integers(0, 5)),
        st.tuples(st.just("abandon"), st.integers(0, 5)),
        st.tuples(st.just("lease"), st.integers(0, 5)),
        st.tuples(st.just("release"), st.integers(0, 5)),
        st.tuples(st.just("gc"), st.integers(1, 60)),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(steps=STEPS, share=st.sampled_from([1.0, 0.4]))
def test_whatever_comes_in_whatever_order_the_disk_never_holds_more_than_the_limit(
    steps: list[tuple[object, ...]], share: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rooms = Rooms(tmp_path_factory.mktemp("rooms"))
    try:
        asyncio.run(_play(rooms, steps, share))
    finally:
        rooms.close()


async def _play(rooms: Rooms, steps: list[tuple[object, ...]], share: float) -> None:
    from cached.config import Share

    room = rooms.make(100, user_share=Share(share))
    fills: list[object] = []
    ready_: list[object] = []
    leases: list[int] = []
    for number, (what, *given_) in enumerate(steps):
        try:
            if what == "begin":
                x, y, uid = given_
                sizes = {name: kb for name, kb in (("x", x), ("y", y)) if kb}
                fills.append(await reserve(room, f"m{number}", uid, **sizes))  # type: ignore[arg-type]
            elif what == "gc":
                await room.make(int(given_[0]) * KB, Wish("for a test"))  # type: ignore[call-overload]
            elif what == "lease" and ready_:
                digest = ready_[int(given_[0]) % len(ready_)]  # type: ignore[call-overload]
                if store_of(room).snapshots.manifest(digest).exists():  # type: ignore[arg-type]
                    leases.append(lease(room, digest))  # type: ignore[arg-type]
            elif what == "release" and leases:
                os.close(leases.pop(int(given_[0]) % len(leases)))  # type: ignore[call-overload]
            elif fills and what in ("come", "end", "abandon"):
                at = int(given_[0]) % len(fills)  # type: ignore[call-overload]
                await _go_on(room, fills, at, str(what), given_, ready_)
        except AllHeld:
            pass
        usage = store_of(room).usage()
        assert usage.used + usage.reserved <= usage.limit
        assert on_disk(room) <= 100
    for fd in leases:
        os.close(fd)


async def _go_on(room, fills, at, what, given_, ready_) -> None:  # type: ignore[no-untyped-def]
    reserved = fills[at]
    try:
        if what == "come":
            await come(room, reserved, given_[1])
        elif what == "end":
            ready_.append(await ready(room, reserved))
            fills.pop(at)
        else:
            fills.pop(at)
            await room.abandon(reserved)
    except AllHeld:
        if reserved in fills:
            fills.remove(reserved)
        await room.abandon(reserved)
        raise
