"""Jobs over forked processes: every one is done, and none of the processes is left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.forks import in_child
from tests.faults.spread import spread

# In a child, because pytest's own process may have threads, and those are not forked.


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def test_every_job_has_its_result_in_order() -> None:
    assert in_child(lambda say: spread(range(100), lambda number: number * number, 3)) == [n * n for n in range(100)]


def test_no_jobs_have_no_results() -> None:
    assert in_child(lambda say: spread([], str, 2)) == []


def test_a_worker_that_dies_is_an_error_and_no_other_is_left() -> None:
    def work() -> tuple[str, list[str]]:
        try:
            spread(range(10), lambda number: os._exit(1) if number == 5 else number, 2)
        except RuntimeError as error:
            return str(error), children()
        return "no error", children()

    assert in_child(lambda say: work()) == ("a worker of the fault suite died", [])


def test_a_child_that_fails_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="ended with 1"):
        in_child(lambda say: os._exit(1))
