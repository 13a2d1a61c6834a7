"""Numbers and times for people, exact columns for pipes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cached.cli.output import (
    digest,
    human_seconds,
    human_size,
    print_json,
    print_table,
    printable,
    relative_time,
    text,
    time,
    warn,
)
from tests.test_logs import HOSTILE


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3 << 29, "1.5 GiB"),
        (5 << 40, "5.0 TiB"),
        (2 << 50, "2048.0 TiB"),
    ],
)
def test_sizes_have_binary_units(count: int, shown: str) -> None:
    assert human_size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (7200, "2 h"), (86400 * 9, "9 d")]
)
def test_durations_have_one_unit(seconds: float, shown: str) -> None:
    assert human_seconds(seconds) == shown


def test_times_are_relative_in_both_directions() -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert relative_time("2026-01-01T11:55:00Z", now) == "5 min ago"
    assert relative_time("2026-01-01T14:00:00+00:00", now) == "in 2 h"
    assert relative_time("2026-01-01T12:00:00.4Z", now) == "now"
    assert relative_time("not a time", now) == "not a time"


def test_control_characters_and_line_ends_do_not_get_through() -> None:
    assert printable("a\tb\nc\x1b]0;x\x07") == "a b c\ufffd]0;x\ufffd"


@pytest.mark.parametrize("hostile", HOSTILE, ids=ascii)
def test_nothing_that_steers_a_terminal_gets_through(hostile: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"a{hostile}b"
    print_json({"name": name})
    print_table(("SOURCE",), [(text(name), digest(name), time(name))])
    warn(name)
    said = capsys.readouterr()
    assert all(char in "\n\t" or char.isprintable() for char in said.out + said.err)
    assert "\t" in said.out
