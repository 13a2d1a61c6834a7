"""What snapshots take beside their blobs: what is spared is divided in equal parts, and the rest is somebody's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cached.store.equal_parts import level
from cached.store.overhead import A_FILE, A_SNAPSHOT, Overhead, of

amounts = st.lists(st.integers(0, 1000), max_size=8)


@given(amounts, st.integers(-10, 5000))
def test_together_they_have_no_more_than_the_whole_and_no_more_could_be_given_to_each(
    wanted: list[int], whole: int
) -> None:
    most = level(wanted, whole)
    assert sum(min(amount, most) for amount in wanted) <= max(0, whole)
    enough = sum(wanted) <= max(0, whole)
    assert enough or sum(min(amount, most + 1) for amount in wanted) > max(0, whole)


@pytest.mark.parametrize(
    ("wanted", "whole", "most"),
    [
        ([], 10, 0),
        ([3, 4], 10, 4),
        ([3, 20], 10, 7),
        ([20, 20], 10, 5),
        ([1, 2, 30, 40], 21, 9),
        ([5], 0, 0),
    ],
)
def test_what_one_does_not_want_of_its_equal_part_is_for_the_others(wanted: list[int], whole: int, most: int) -> None:
    assert level(wanted, whole) == most


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 1000)), st.integers(0, 5000))
def test_the_whole_excess_is_charged_and_nothing_when_there_is_none(taken: dict[str, int], spare: int) -> None:
    overhead = Overhead(sum(taken.values()), spare)
    charges = overhead.charges(taken)
    assert overhead.excess <= sum(charges.values()) < overhead.excess + max(1, len(taken))  # Parts are whole bytes.
    assert all(0 < charged <= taken[each] for each, charged in charges.items())


def test_who_takes_no_more_than_an_equal_part_is_charged_nothing_whatever_others_take() -> None:
    taken = {"hog": 1_000_000, "modest": 40, "third": 50}
    assert Overhead(sum(taken.values()), 150).charges(taken) == {"hog": 1_000_000 - 60}


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_what_comes_makes_the_excess_what_it_is_afterwards(taken: int, spare: int, coming: int) -> None:
    before, after = Overhead(taken, spare), Overhead(taken + coming, spare)
    assert before.excess + before.more(coming) == after.excess


def test_each_snapshot_and_each_of_its_files_takes_something() -> None:
    assert of(0) == A_SNAPSHOT
    assert of(10, snapshots=3) == 3 * A_SNAPSHOT + 10 * A_FILE


def test_where_nothing_is_spared_who_has_little_is_charged_nothing_all_the_same() -> None:
    assert Overhead(1_000, 0, free=100).charges({"hog": 900, "modest": 100}) == {"hog": 800}
