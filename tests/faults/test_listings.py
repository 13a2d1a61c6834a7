"""Listings that are huge, empty, or promise more than a disk can take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cached import ModelNotFound, SourceUnavailable, TooLarge
from tests.daemon_process import DaemonProcess
from tests.faults.rig import PROTOCOLS, Rig, Target
from tests.servers import FaultOrigin
from tests.servers.fault_kinds import EVER

MEMORY = 600 << 20  # Bytes that the daemon may have taken at its most.


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Rig]:
    """With a store of one megabyte."""
    with FaultOrigin() as origin:
        rig = Rig(origin, DaemonProcess(tmp_path / "daemon"))
        try:
            yield rig.start(limit="1MiB")
        finally:
            rig.close()


def listed(rig: Rig, protocol: str, claims: dict[str, int]) -> Target:
    """A model of which there are only names and sizes."""
    target = rig.make(protocol, path=next(iter(claims)))
    rig.origin.put(target.model, {}, claims)
    return target


def asked(rig: Rig, target: Target) -> list[str]:
    """Which ranges of its files' bytes were asked for."""
    seen = zip(rig.origin.requests, rig.origin.stages, strict=True)
    return [s.headers.get("range", "") for s, stage in seen if stage == "body" and f"/{target.model}/" in s.path]


def proofs(protocol: str) -> list[str]:
    """A byte by which a caller of a bucket shows that it may read there."""
    return ["bytes=0-0"] if protocol == "s3" else []


def peak(rig: Rig) -> int:
    assert rig.daemon.process is not None
    status = Path(f"/proc/{rig.daemon.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


@pytest.mark.parametrize("protocol", ["s3", "hub"])
def test_a_hundred_thousand_files_are_listed_in_bounded_memory(small: Rig, protocol: str) -> None:
    target = listed(small, protocol, {f"shard-{number:06}.json": 1000 for number in range(100_000)})
    outcome = small.check(target, small.pull(target))
    assert isinstance(outcome, TooLarge), repr(outcome)
    assert small.origin.seen("list") >= 100 and asked(small, target) == proofs(protocol)
    assert peak(small) < MEMORY


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_five_terabytes_are_too_large_before_the_first_byte(rig: Rig, protocol: str) -> None:
    target = listed(rig, protocol, {"model.safetensors": 5 << 40})
    outcome = rig.check(target, rig.pull(target))
    assert isinstance(outcome, TooLarge), repr(outcome)
    assert asked(rig, target) == proofs(protocol) and rig.parts() == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_place_without_files_has_no_model(rig: Rig, protocol: str) -> None:
    target = rig.make(protocol)
    rig.origin.put(target.model, {})
    outcome = rig.check(target, rig.pull(target))
    assert isinstance(outcome, ModelNotFound) and "no model files at" in outcome.message, repr(outcome)


@pytest.mark.parametrize("kind", ["short", "chunked-cut", "no-length-cut", "gzip"])
@pytest.mark.parametrize("protocol", ["s3", "hub"])
def test_a_listing_that_breaks_off_is_not_taken_for_the_whole(rig: Rig, protocol: str, kind: str) -> None:
    target = rig.make(protocol)
    rig.origin.fail(kind, times=EVER, stages=("list",))
    if kind == "gzip":
        rig.survives(target)
    else:
        rig.refuses(target, SourceUnavailable)


@pytest.mark.parametrize("protocol", ["s3", "hub"])
def test_a_listing_that_never_ends_is_given_up(rig: Rig, protocol: str) -> None:
    target = rig.make(protocol)
    rig.origin.fail("stall", times=EVER, stages=("list",))
    rig.refuses(target, SourceUnavailable)
