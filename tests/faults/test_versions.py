"""Models that change or vanish while they are fetched: one version or the other, never some of both."""

from __future__ import annotations

import pytest

from cached import ModelNotFound, NotFound, SourceChanged, SourceDenied, SourceUnavailable
from cached.wire import Ready
from tests.faults.rig import Rig
from tests.servers.fault_kinds import EVER


@pytest.mark.parametrize("careless", [False, True], ids=["412", "206 with another ETag"])
def test_a_model_that_changes_between_two_reads_arrives_whole_in_its_new_version(
    rig: Rig, protocol: str, size: str, careless: bool
) -> None:
    target = rig.make(protocol, size)
    new = rig.bytes(len(target.data))
    rig.origin.careless = careless
    rig.origin.fail("none", at=target.middle, before=lambda: rig.origin.put(target.model, {target.path: new}))
    outcome = rig.survives(target, new)
    assert isinstance(outcome, Ready | SourceChanged), repr(outcome)


def test_a_model_that_grows_arrives_whole_in_its_new_version(rig: Rig, protocol: str, size: str) -> None:
    target = rig.make(protocol, size)
    new = target.data + b"more"
    rig.origin.fail("none", at=target.middle, before=lambda: rig.origin.put(target.model, {target.path: new}))
    rig.recovers(target, new)


def test_a_model_that_changes_at_every_read_is_an_error(rig: Rig, protocol: str) -> None:
    target = rig.make(protocol)
    versions = [rig.bytes(len(target.data)) for _ in range(20)]
    left = iter(versions)
    change = lambda: rig.origin.put(target.model, {target.path: next(left)})  # noqa: E731
    rig.origin.fail("none", times=EVER, before=change)
    outcome = rig.survives(target, *versions)
    assert isinstance(outcome, SourceChanged), repr(outcome)


@pytest.mark.parametrize("stage", ["link", "body"])
def test_another_commit_in_the_answer_is_another_version(rig: Rig, stage: str) -> None:
    target = rig.make("hub", "large" if stage == "link" else "small")
    rig.origin.fail("headers", headers={"X-Repo-Commit": "f" * 40}, stages=(stage,), times=EVER)
    rig.refuses(target, SourceChanged)


@pytest.mark.parametrize("header", ["X-Linked-Etag", "X-Linked-Size"])
def test_another_digest_or_size_beside_the_link_is_another_version(rig: Rig, header: str) -> None:
    target = rig.make("hub", "large")
    said = '"' + "0" * 64 + '"' if header == "X-Linked-Etag" else "17"
    rig.origin.fail("headers", headers={header: said}, stages=("link",), times=EVER)
    rig.refuses(target, SourceChanged)


def test_a_model_that_is_deleted_half_way_is_an_error(rig: Rig, protocol: str, size: str) -> None:
    target = rig.make(protocol, size)
    files = dict(rig.origin.models[target.model].files)
    rig.origin.fail("none", at=target.middle, before=lambda: rig.origin.models.pop(target.model, None))
    outcome = rig.check(target, rig.pull(target))
    assert isinstance(outcome, SourceChanged | NotFound | SourceDenied), repr(outcome)
    rig.origin.put(target.model, files)
    rig.origin.heal()
    rig.recovers(target)


@pytest.mark.parametrize("protocol", ["s3", "http"])
def test_a_precondition_that_always_fails_is_an_error(rig: Rig, protocol: str) -> None:
    target = rig.make(protocol)
    rig.origin.fail("status", status=412, times=EVER)
    rig.refuses(target, SourceChanged, SourceUnavailable)


def test_a_model_that_never_was_is_not_found(rig: Rig, protocol: str) -> None:
    target = rig.make(protocol)
    del rig.origin.models[target.model]
    hidden = protocol == "hub"  # Which says the same of what is private.
    assert isinstance(rig.check(target, rig.pull(target)), SourceDenied if hidden else ModelNotFound)
