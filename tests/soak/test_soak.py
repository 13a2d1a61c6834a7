"""A minute of the soak: rules alone, no timing. `make soak` is the hour, with the figures."""

from __future__ import annotations

import os
import secrets

import pytest

from tests.soak.soak import run

SECONDS = 60.0


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")
def test_a_working_user_gets_its_models_and_keeps_them_to_itself_whatever_three_hostile_ones_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seed = secrets.randbits(32)
    outcome = run(SECONDS, seed)
    with capsys.disabled():
        print(f"\n{outcome.report()}")
    assert outcome.broken() == []
