"""What is checked next, and how fast: rules without a disk that has to rot first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cached.config import Config, Duration, Size
from cached.daemon.integrity.scrub import Due, find_due
from cached.model import Digest
from cached.store.store import Store
from cached.worker import check

NOW = 1e9
DAY = 86400.0
A, B, C = sorted(Digest.of(name) for name in (b"a", b"b", b"c"))
CONFIG = Config(scrub_interval=Duration(7 * DAY), scrub_deep_interval=Duration(30 * DAY))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(Config(root=tmp_path / "root", keep_free=Size(0)))
    yield store
    store.close()


def know(store: Store, digest: Digest, checked: float, hashed: float, damaged: bool = False) -> None:
    """A blob that was last checked, and last hashed, so many days ago."""
    with store.index.transaction() as db:
        db.execute(
            "INSERT OR REPLACE INTO blob (digest, size, created_at, checked_at, hashed_at, damaged) "
            "VALUES (?, 1, 0, ?, ?, ?)",
            (digest.hex, NOW - checked * DAY, NOW - hashed * DAY if hashed else 0, damaged),
        )


def test_nothing_is_due_while_every_check_is_recent(store: Store) -> None:
    know(store, A, checked=6, hashed=29)
    assert find_due(store.index, CONFIG, NOW) is None


def test_the_longest_unchecked_comes_first(store: Store) -> None:
    know(store, A, checked=8, hashed=8)
    know(store, B, checked=9, hashed=9)
    know(store, C, checked=1, hashed=1)
    assert find_due(store.index, CONFIG, NOW) == Due(B, deep=False)


def test_a_check_that_was_noted_is_not_repeated_after_a_restart(store: Store) -> None:
    know(store, A, checked=8, hashed=8)
    know(store, B, checked=9, hashed=9)
    with store.index.transaction() as db:
        db.execute("UPDATE blob SET checked_at = ? WHERE digest = ?", (NOW, B.hex))
    assert find_due(store.index, CONFIG, NOW) == Due(A, deep=False)


def test_the_whole_sha256_is_due_at_its_own_interval_and_before_pieces(store: Store) -> None:
    know(store, A, checked=20, hashed=20)
    know(store, B, checked=1, hashed=31)
    assert find_due(store.index, CONFIG, NOW) == Due(B, deep=True)


def test_what_a_rebuilt_index_knows_nothing_of_comes_before_everything(store: Store) -> None:
    know(store, A, checked=100, hashed=100)
    know(store, B, checked=0, hashed=0)
    assert find_due(store.index, CONFIG, NOW) == Due(B, deep=True)


def test_what_is_damaged_is_not_checked_again(store: Store) -> None:
    know(store, A, checked=100, hashed=100, damaged=True)
    assert find_due(store.index, CONFIG, NOW) is None


@pytest.mark.parametrize(
    ("shallow", "deep", "due"), [(0, 30, None), (7, 0, Due(A, deep=False)), (7, 30, Due(A, deep=True))]
)
def test_an_interval_of_0_is_never(store: Store, shallow: float, deep: float, due: Due | None) -> None:
    know(store, A, checked=100, hashed=100)
    config = Config(scrub_interval=Duration(shallow * DAY), scrub_deep_interval=Duration(deep * DAY))
    assert find_due(store.index, config, NOW) == due


def test_a_check_waits_so_that_it_reads_no_more_than_its_rate_and_makes_nothing_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(check.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(check.time, "sleep", sleep)
    pace = check.Pace(1000)
    for _ in range(10):
        pace.take(500)
    assert sum(slept) == pytest.approx(5.0)
    clock[0] += 3600.0
    slept.clear()
    for _ in range(10):
        pace.take(500)
    assert sum(slept) == pytest.approx(4.0), "a second of the lost hour is made up for, no more"
