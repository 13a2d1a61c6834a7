"""Answers to a range that are not what was asked for: used where they are right, never where they are not."""

from __future__ import annotations

import pytest

from cached import SourceChanged, SourceUnavailable
from tests.faults.rig import Rig
from tests.servers.fault_kinds import EVER


@pytest.mark.parametrize("kind", ["ignored", "as-200"])
def test_a_whole_body_and_a_part_called_200_are_used_for_what_they_are(
    rig: Rig, protocol: str, size: str, kind: str
) -> None:
    target = rig.make(protocol, size)
    rig.origin.fail(kind, times=EVER)
    rig.recovers(target)


@pytest.mark.parametrize("kind", ["shifted", "unnamed", "wide", "multipart", "gzip"])
def test_an_answer_to_another_question_is_not_used_but_asked_again(
    rig: Rig, protocol: str, size: str, kind: str
) -> None:
    target = rig.make(protocol, size)
    fault = rig.origin.fail(kind, times=target.pieces)
    rig.recovers(target)
    assert fault.struck == target.pieces


@pytest.mark.parametrize("kind", ["shifted", "gzip"])
def test_an_origin_that_only_answers_other_questions_is_an_error(rig: Rig, protocol: str, kind: str) -> None:
    target = rig.make(protocol)
    rig.origin.fail(kind, times=EVER)
    rig.refuses(target, SourceUnavailable, SourceChanged)


def test_another_length_of_the_whole_is_another_version(rig: Rig, protocol: str, size: str) -> None:
    target = rig.make(protocol, size)
    rig.origin.fail("other-total", times=EVER)
    rig.refuses(target, SourceChanged)


def test_an_empty_file_is_a_file(rig: Rig, protocol: str) -> None:
    target = rig.make(protocol, path="empty.json")
    rig.origin.put(target.model, {target.path: b""})
    rig.recovers(target, b"")


@pytest.mark.parametrize("status", [416, 206])
def test_an_empty_file_is_not_asked_for_any_bytes(rig: Rig, protocol: str, status: int) -> None:
    target = rig.make(protocol, path="empty.json")
    rig.origin.put(target.model, {target.path: b""})
    rig.origin.fail("status", status=status, times=EVER)
    rig.recovers(target, b"")


def test_a_range_that_cannot_be_satisfied_is_a_change(rig: Rig, protocol: str, size: str) -> None:
    target = rig.make(protocol, size)
    rig.origin.fail("status", status=416, headers={"Content-Range": "bytes */10"}, times=EVER)
    rig.refuses(target, SourceChanged)
