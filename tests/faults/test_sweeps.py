"""A part of `make faults`: of each scenario and fault, each kind of call once, and every so many."""

from __future__ import annotations

import pytest

from tests.faults.asked import ask
from tests.faults.errors import FAULTS
from tests.faults.scenarios import SCENARIOS

EVERY = 200


@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name != "park"])
def test_whatever_call_is_struck_the_invariants_hold(scenario: str) -> None:
    answer = ask(*(f"{fault.name} {scenario}" for fault in FAULTS), f"HALF {scenario}", every=EVERY)
    assert answer.points > 20
    assert answer.violations == []
