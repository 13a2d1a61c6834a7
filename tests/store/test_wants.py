"""What ended fills leave reserved: what has landed, until somebody takes it up or it is given up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cached.store.store import Store


@pytest.fixture
def store(open_store: Callable[[], Store]) -> Store:
    return open_store()


def test_of_an_ended_fill_what_has_landed_stays_reserved_and_the_rest_is_free(store: Store) -> None:
    fill = store.index.begin("s", {"landed": 100, "missing": 50}, [], 1000)
    assert fill is not None and store.index.committed() == 150
    store.index.abandon(fill, {"landed": 100})
    assert store.index.reserved(["landed", "missing"]) == {"landed": 100}
    assert store.index.committed() == 100 and store.parked() == ["landed"]


def test_of_an_ended_fill_no_more_stays_reserved_than_lies_on_the_disk(store: Store) -> None:
    fill = store.index.begin("s", {"landed": 100}, [], 1000)
    assert fill is not None
    store.index.abandon(fill, {"landed": 40})
    assert store.index.committed() == 40 and store.index.reserved(["landed"]) == {"landed": 40}
    assert store.index.begin("s", {"landed": 100}, [], 99) is None
    assert store.index.begin("s", {"landed": 100}, [], 100) is not None, "what has landed needs no second room"
    assert store.index.committed() == 100


def test_what_is_parked_is_given_up_unless_a_fill_has_taken_it_up(store: Store) -> None:
    first = store.index.begin("s", {"a": 100, "b": 100}, [], 1000)
    assert first is not None
    store.index.abandon(first, {"a": 100, "b": 100})
    assert store.index.begin("s", {"a": 100}, [], 1000) is not None
    assert store.index.committed() == 200, "what is parked is shared, not reserved twice"
    assert not store.index.forget_parked("a") and store.index.forget_parked("b")
    assert store.index.reserved(["a", "b"]) == {"a": 100}


def test_a_fill_whose_wants_others_share_takes_only_the_room_of_its_own(store: Store) -> None:
    assert store.index.begin("s", {"a": 600}, [], 1000) is not None
    assert store.index.begin("t", {"a": 600, "b": 400}, [], 1000) is not None
    assert store.index.begin("u", {"c": 1}, [], 1000) is None
    assert store.index.reserved(["a", "b", "c"]) == {"a": 600, "b": 400}
