"""Who is asked how hard, and whose turn it is: rules of pure bookkeeping."""

from __future__ import annotations

from cached.daemon.transfer.connection_limit import CHASTENED, SETTLED, Pace
from cached.daemon.transfer.fair_queue import ALONE, Part, Turns, Work

MB = 1_000_000


def drive(pace: Pace, speeds: list[float], start: float = 0.0) -> float:
    """One window for each speed (MB/s), all connections in use."""
    now, total = start, 0.0
    pace.active = pace.limit
    pace.measured(0, now)
    for speed in speeds:
        now += 1.0
        total += speed
        pace.active = pace.limit
        pace.measured(int(total * MB), now)
    return now


def test_connections_are_added_as_long_as_each_makes_it_faster() -> None:
    pace = Pace(2, 16)
    drive(pace, [100, 150, 200, 201])
    assert pace.limit == 4


def test_a_connection_that_brings_nothing_is_taken_back_and_not_tried_again_at_once() -> None:
    pace = Pace(4, 16)
    now = drive(pace, [100, 100])
    assert pace.limit == 4
    drive(pace, [100] * int(SETTLED - 1), now)
    assert pace.limit == 4
    drive(pace, [100, 100], now + SETTLED)
    assert pace.limit == 5


def test_there_are_never_more_than_the_most() -> None:
    pace = Pace(3, 4)
    drive(pace, [100, 200, 400, 800, 1600])
    assert pace.limit == 4
    assert Pace(8, 2).limit == 2


def test_idle_connections_say_nothing_about_speed() -> None:
    pace = Pace(4, 16)
    for now in range(10):
        pace.active = 1
        pace.measured(now * MB, float(now))
    assert pace.limit == 4


def test_an_origin_that_throttles_is_left_alone_and_then_asked_by_half_as_many() -> None:
    pace = Pace(8, 16)
    for _ in range(8):  # Everything that was in flight comes back refused.
        pace.throttled(5.0, 100.0)
    assert pace.limit == 4 and not pace.may_start(104.9) and pace.may_start(105.0)
    drive(pace, [100, 200], 106.0)
    assert pace.limit == 4, "it does not climb again at once"
    drive(pace, [100, 200], 101.0 + CHASTENED)
    assert pace.limit > 4


def test_as_many_again_may_fetch_small_files_but_never_more_than_the_most() -> None:
    pace = Pace(4, 6)
    pace.active = 4
    assert not pace.may_start(0.0) and pace.may_start_extra(0.0)
    pace.extra = 2
    assert not pace.may_start_extra(0.0)
    pace = Pace(4, 16)
    pace.extra = 4
    assert not pace.may_start_extra(0.0) and pace.may_start(0.0)


def test_an_origin_that_has_throttled_is_left_alone_by_small_files_too() -> None:
    pace = Pace(4, 16)
    pace.throttled(5.0, 0.0)
    assert not pace.may_start_extra(4.9) and pace.may_start_extra(5.0)
    pace.throttled(5.0, 10.0)
    assert pace.limit == 1 and pace.may_start(15.0) and not pace.may_start_extra(15.0)


def work(name: str, group: str = "a", parts: int = 2, small: bool = False) -> Work:
    return Work(name, "s3://host", group, [Part(lambda: None) for _ in range(parts)], small)


def take(turns: Turns, count: int, now: float = 0.0, small: bool = False) -> list[str]:
    return [turn[0].name for _ in range(count) if (turn := turns.take(now, small))]


def test_every_file_gets_one_connection_before_any_gets_two() -> None:
    turns = Turns()
    for name in "xyz":
        turns.add(work(name))
    assert take(turns, 5) == ["x", "y", "z"]
    assert take(turns, 2, ALONE) == ["x", "y"]


def test_others_have_time_to_begin_before_a_file_gets_a_second_connection() -> None:
    turns = Turns()
    turns.add(work("x", parts=3))
    assert take(turns, 2) == ["x"] and turns.next_resume(0.0) == ALONE
    turns.add(work("y"))
    assert take(turns, 2, ALONE / 2) == ["y"] and turns.next_resume(ALONE / 2) == ALONE
    assert take(turns, 2, ALONE) == ["x", "x"]


def test_models_that_wait_come_before_the_one_that_has_just_been_read() -> None:
    """With more models than connections: else the first keep them until they have ended."""
    turns = Turns()
    works = [work(name, group=name) for name in "abc"]
    for one in works:
        turns.add(one)
    for expected in "abcabc":
        taken = turns.take(0.0)
        assert taken is not None and taken[0].name == expected
        turns.ended(taken[0])


def test_a_file_that_nobody_reads_waits_for_no_others() -> None:
    turns = Turns()
    alone = work("x")
    turns.add(alone)
    assert take(turns, 1) == ["x"]
    turns.ended(alone)
    assert take(turns, 1) == ["x"]


def test_a_begun_file_goes_on_before_another_is_begun() -> None:
    turns = Turns()
    first = work("x")
    for one in (first, work("y")):
        turns.add(one)
    assert take(turns, 1) == ["x"]
    turns.ended(first)
    assert take(turns, 2) == ["x", "y"]


def test_models_take_turns() -> None:
    turns = Turns()
    for name in ("big1", "big2", "big3"):
        turns.add(work(name, "big"))
    assert take(turns, 2) == ["big1", "big2"]
    turns.add(work("small", "small"))
    assert take(turns, 1) == ["small"]
    assert take(turns, 1, ALONE) == ["small"]


def test_a_file_that_pauses_lets_the_others_go_on_and_comes_back() -> None:
    turns = Turns()
    paused = work("x", parts=1)
    turns.add(paused)
    _, part = turns.take(0.0) or (None, None)
    assert part is not None
    paused.parts.append(part)
    paused.resume_at = 10.0
    turns.ended(paused)
    turns.add(work("y", parts=1))
    assert take(turns, 2, 5.0) == ["y"]
    assert turns.next_resume(5.0) == 10.0
    assert take(turns, 2, 10.0) == ["x"]


def test_small_files_can_be_taken_past_the_large_ones_before_them() -> None:
    turns = Turns()
    turns.add(work("x"))
    turns.add(work("y", small=True, parts=1))
    turns.add(work("z", "b", parts=1))
    assert take(turns, 2, small=True) == ["y"]
    assert take(turns, 9) == ["z", "x"]


def test_a_file_that_was_given_up_takes_no_turn() -> None:
    turns = Turns()
    gone = work("x")
    turns.add(gone)
    gone.parts.clear()
    assert turns.take(0.0) is None
    turns.add(work("y", parts=1))
    assert take(turns, 2) == ["y"]
