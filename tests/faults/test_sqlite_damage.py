"""A part of the suite of damaged indexes, and that it can fail."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cached.store.index import integrity, row_seals
from cached.store.startup.index_sync import Following
from tests.faults.sqlite_damage import run
from tests.faults.suite import Context


@pytest.fixture
def context() -> Iterator[Context]:
    """In memory where that can be had: a point is a root that is copied and started twice."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="cached-sqlite-", dir=memory) as folder:
        yield Context(Path(folder), workers=2, every=9)


def test_whatever_happens_to_the_bytes_of_the_index_a_start_comes_of_it(context: Context) -> None:
    tally = run(context)
    assert tally.points >= 50
    assert list(map(str, tally.violations)) == []


def test_the_suite_fails_without_seals(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_seals, "drop_broken", lambda db: 0)
    assert run(replace(context, every=1), "cell resolution.3").violations


def test_the_suite_fails_when_damaged_pages_are_believed(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrity, "problem", lambda db: None)
    assert run(replace(context, every=4), "page").violations


def test_the_suite_fails_when_rows_are_not_compared(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Following, "_agrees", lambda self, found: self.knows(found.digest))
    assert run(replace(context, every=1), "cell snapshot.[34]").violations
