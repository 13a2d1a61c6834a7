"""Bodies that end early, never end, or have another length than was said."""

from __future__ import annotations

import pytest

from cached import SourceUnavailable
from tests.faults.rig import Rig
from tests.servers.fault_kinds import EVER


def test_a_sound_origin_is_read_without_any_retry(rig: Rig, protocol: str, size: str) -> None:
    target = rig.make(protocol, size)
    before = rig.origin.seen("body")
    rig.recovers(target)
    proofs = 1 if protocol == "s3" else 0  # A byte by which a caller of a bucket shows that it may read there.
    assert rig.origin.seen("body") - before == proofs + target.pieces


@pytest.mark.parametrize("kind", ["short", "cut", "chunked-cut", "no-length-cut", "reset", "not-http"])
def test_a_body_that_ends_early_is_fetched_on_at_the_same_version(
    rig: Rig, protocol: str, size: str, kind: str
) -> None:
    target = rig.make(protocol, size)
    fault = rig.origin.fail(kind, at=target.middle)
    rig.recovers(target)
    assert fault.struck == 1


@pytest.mark.parametrize("kind", ["short", "chunked-cut", "length-below"])
def test_bodies_that_always_end_early_are_an_error_and_never_a_model(rig: Rig, protocol: str, kind: str) -> None:
    target = rig.make(protocol)
    rig.origin.fail(kind, times=EVER)
    rig.refuses(target, SourceUnavailable)


@pytest.mark.parametrize("kind", ["length-above", "length-below", "two-lengths", "too-long", "chunked", "no-length"])
def test_a_length_that_is_wrong_or_missing_does_no_harm(rig: Rig, protocol: str, size: str, kind: str) -> None:
    target = rig.make(protocol, size)
    fault = rig.origin.fail(kind, at=target.middle)
    rig.recovers(target)
    assert fault.struck == 1


def test_bytes_after_the_end_of_a_body_are_not_taken_for_the_next_answer(rig: Rig, protocol: str) -> None:
    first, second = rig.make(protocol), rig.make(protocol)
    rig.origin.fail("too-long", times=EVER)
    rig.survives(first)
    rig.recovers(second)


@pytest.mark.parametrize("kind", ["stall", "drip"])
def test_a_body_that_stops_coming_is_given_up_and_fetched_on(rig: Rig, protocol: str, kind: str) -> None:
    target = rig.make(protocol, "large" if kind == "stall" else "small")
    fault = rig.origin.fail(kind, at=target.middle)
    rig.recovers(target)
    assert fault.struck == 1


def test_an_origin_that_refuses_connections_for_a_while_does_no_harm(rig: Rig, protocol: str, size: str) -> None:
    target = rig.make(protocol, size)
    rig.origin.fail("reset", at=target.middle, before=lambda: rig.origin.cut_for(0.2))
    rig.survives(target)


def test_an_origin_that_refuses_connections_is_unavailable(rig: Rig, protocol: str) -> None:
    target = rig.make(protocol)
    rig.origin.cut()
    try:
        outcome = rig.check(target, rig.pull(target))
    finally:
        rig.origin.restore()
    assert isinstance(outcome, SourceUnavailable) and outcome.retryable
    rig.recovers(target)
