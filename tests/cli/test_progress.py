"""Rates and lines, on a clock that the test turns."""

from __future__ import annotations

import pytest

from cached.cli.progress import LINE_SECONDS, Lines, Rate, describe
from cached.model import Progress

MIB = 1 << 20


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def fetching(done: int, cached: int = 0) -> Progress:
    return Progress("fetching", done * MIB, 100 * MIB, cached * MIB, 1, 4)


def test_bytes_that_the_node_held_are_no_speed() -> None:
    clock = Clock()
    rate = Rate(clock)
    rate.add(fetching(0))
    clock.now += 2
    rate.add(fetching(60, cached=50))
    assert rate.per_second == 5 * MIB


def test_rate_forgets_what_is_long_ago() -> None:
    clock = Clock()
    rate = Rate(clock)
    for second in range(31):
        clock.now = 1000.0 + second
        rate.add(fetching(second if second < 10 else 10 + 2 * (second - 10)))
    assert rate.per_second == pytest.approx(2 * MIB)


def test_unknown_size_and_rate_are_left_out() -> None:
    assert describe(Progress("resolving"), 0) == ("", "", "", "")
    assert describe(fetching(25), 0) == ("25.0 MiB of 100.0 MiB", "", "", "1/4 files")
    assert describe(fetching(25), MIB) == ("25.0 MiB of 100.0 MiB", "1.0 MiB/s", "1:15 left", "1/4 files")


def test_plain_lines_come_rarely_and_not_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = Lines("org/name", clock)
    for tick in range(240):
        clock.now = 1000.0 + tick / 10
        lines(fetching(tick // 10))
    told = capsys.readouterr().err.splitlines()
    assert len(told) == int(24 // LINE_SECONDS)
    assert told[0] == "cached: org/name: fetching 5.0 MiB of 100.0 MiB, 1.0 MiB/s, 1:35 left, 1/4 files"
