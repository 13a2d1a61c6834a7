"""The demo must not be able to pass when what it claims is untrue."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from tests.demo.report import Row, problems, show

COLD = Row(origin_bytes=1500, hit=False, waited=0.5, ready=20.0, answered=50.0)
WARM = Row(origin_bytes=0, hit=True, waited=0.002, ready=19.0, answered=48.0)


def test_a_cold_and_a_warm_deploy_show_what_the_demo_claims() -> None:
    assert problems([COLD, WARM], model_bytes=1000) == []


@pytest.mark.parametrize(
    "rows",
    [
        [COLD],
        [COLD, replace(WARM, origin_bytes=1)],
        [COLD, replace(WARM, hit=False)],
        [replace(COLD, origin_bytes=999), WARM],
        [replace(COLD, hit=True), WARM],
        [COLD, replace(WARM, ready=60.0)],
        [COLD, replace(WARM, ready=-1.0)],
        [WARM, WARM],
    ],
)
def test_anything_untrue_is_a_problem(rows: list[Row]) -> None:
    assert problems(rows, model_bytes=1000)


def test_the_table_has_a_row_for_each_deploy_with_bytes_and_seconds() -> None:
    text = StringIO()
    show([COLD, WARM], Console(file=text, width=120))
    cold, warm = [line for line in text.getvalue().splitlines() if "cold" in line or "warm" in line]
    assert [part in cold for part in ("1,500", "0.500 s", "20.0 s", "50.0 s")] == [True] * 4
    assert warm.split("│")[2].strip() == "0"
