from __future__ import annotations

import pytest

from cached.worker import byte_counts as module
from cached.worker.byte_counts import Bandwidth, Tally
from cached.worker.messages import Came


def test_what_broke_off_came_but_is_not_done() -> None:
    tally = Tally()
    with pytest.raises(OSError), tally.count(7) as count:
        count.add(100)
        assert tally.news() == Came({7: (100, 100)})
        count.add(50)
        raise OSError
    assert tally.news() == Came({7: (-100, 50)})


def test_calls_for_one_file_are_told_together_and_once() -> None:
    tally = Tally()
    with tally.count(7) as one, tally.count(7) as other, tally.count(8):
        one.add(1)
        other.add(2)
    assert tally.news() == Came({7: (3, 3)})
    assert tally.news() is None


def test_a_bound_on_bandwidth_holds_bytes_back_for_as_long_as_they_should_have_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(round(seconds, 6))
        now[0] += seconds

    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.time, "sleep", sleep)
    bound = Bandwidth(1000)
    bound.take(500)
    bound.take(250)
    now[0] += 60  # What was not used meanwhile is not saved up.
    bound.take(1000)
    assert slept == [0.5, 0.25, 1.0]
    Bandwidth(0).take(10**12)
    assert len(slept) == 3
