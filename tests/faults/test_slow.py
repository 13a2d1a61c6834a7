"""Answers that come a byte at a time before their body begins, and listings that do so within it."""

from __future__ import annotations

import pytest

from cached import SourceUnavailable
from tests.faults.rig import Rig
from tests.servers.fault_kinds import EVER


@pytest.mark.parametrize("kind", ["drip-head", "announced"])
@pytest.mark.parametrize("stage", ["body", "list"])
def test_a_head_that_never_ends_is_given_up(rig: Rig, protocol: str, kind: str, stage: str) -> None:
    target = rig.make(protocol)
    stages = ("list", "probe") if stage == "list" else ("body",)
    rig.origin.fail(kind, times=EVER, stages=stages)
    rig.refuses(target, SourceUnavailable)


@pytest.mark.parametrize("protocol", ["s3", "hub"])  # The listing of plain HTTP is a head.
def test_a_listing_that_drips_is_given_up(rig: Rig, protocol: str) -> None:
    target = rig.make(protocol)
    rig.origin.put(target.model, {target.path: target.data}, {f"{n}.json": 1 for n in range(500)})
    rig.origin.fail("drip", times=EVER, stages=("list",))
    outcome = rig.pull(target)
    assert isinstance(outcome, SourceUnavailable), repr(outcome)
