"""What hits are told is remembered until the next commit, and no longer."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from cached.store.index.database import REMEMBERED, IndexFile

ASK = "SELECT value FROM t WHERE key = ?"


@pytest.fixture
def index(tmp_path: Path) -> Iterator[IndexFile]:
    opened = IndexFile(tmp_path / "index.db")
    with opened.transaction() as db:
        db.execute("CREATE TABLE t (key INTEGER PRIMARY KEY, value INTEGER)")
        db.execute("INSERT INTO t VALUES (1, 10)")
    yield opened
    opened.close()


def value(index: IndexFile) -> int:
    return int(index.hits.query(ASK, (1,))[0]["value"])


def test_a_question_is_not_asked_again_before_the_next_commit(index: IndexFile) -> None:
    said: list[str] = []
    index.hits._connection.set_trace_callback(said.append)
    assert [value(index) for _ in range(3)] == [10, 10, 10]
    assert len(said) == 1


def test_an_answer_of_before_a_commit_is_not_given_after_it(index: IndexFile) -> None:
    assert value(index) == 10
    with index.transaction() as db:
        db.execute("UPDATE t SET value = 11")
        assert value(index) == 10, "only what has been committed"
    assert value(index) == 11


def test_a_commit_whose_end_nobody_knows_ends_what_was_remembered(index: IndexFile) -> None:
    """The disk may have taken it, and failed to say so."""
    assert value(index) == 10
    with pytest.raises(sqlite3.IntegrityError), index.transaction() as db:
        db.execute("UPDATE t SET value = 11")
        db.execute("COMMIT")
        raise sqlite3.IntegrityError
    assert value(index) == 11


def test_what_is_remembered_is_bounded(index: IndexFile) -> None:
    for key in range(2 * REMEMBERED):
        index.hits.query(ASK, (key,))
    assert len(index.hits._remembered) <= REMEMBERED
