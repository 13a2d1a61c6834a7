"""Origins that ask for patience: it is given, up to a bound, and progress says so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from cached import Client, Progress, SourceUnavailable
from tests.daemon_process import DaemonProcess
from tests.faults.rig import Rig
from tests.servers import FaultOrigin
from tests.servers.fault_kinds import EVER

PAST = "Thu, 01 Jan 1970 00:00:00 GMT"
JUNK = ("-5", "soon", "nan", "1e", PAST, "Thu, 99 Jan 9999 99:99:99 GMT", "")


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Rig]:
    """With a daemon that nobody else uses: its origin may have asked for a long pause."""
    with FaultOrigin() as origin:
        rig = Rig(origin, DaemonProcess(tmp_path / "daemon"))
        try:
            yield rig.start()
        finally:
            rig.close()


@pytest.mark.parametrize("after", ["0", *JUNK])
def test_a_retry_after_that_asks_for_no_wait_or_makes_no_sense_is_got_over(rig: Rig, protocol: str, after: str) -> None:
    target = rig.make(protocol)
    fault = rig.origin.fail("status", status=429, headers={"Retry-After": after} if after else {})
    rig.recovers(target)
    assert fault.struck == 1


@pytest.mark.parametrize("status", [429, 503])
def test_one_second_is_waited_for(rig: Rig, protocol: str, status: int) -> None:
    target = rig.make(protocol, "large")
    fault = rig.origin.fail("status", status=status, headers={"Retry-After": "1"}, at=2)
    rig.recovers(target)
    assert fault.struck == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_origin_that_is_always_busy_is_unavailable(rig: Rig, protocol: str, status: int) -> None:
    target = rig.make(protocol)
    rig.origin.fail("status", status=status, headers={"Retry-After": "0"}, times=EVER)
    assert rig.refuses(target, SourceUnavailable).retryable


def test_a_busy_listing_is_unavailable(rig: Rig, protocol: str) -> None:
    target = rig.make(protocol)
    rig.origin.fail("status", status=503, headers={"Retry-After": "9"}, times=EVER, stages=("list", "probe"))
    assert rig.refuses(target, SourceUnavailable).retryable


@pytest.mark.parametrize("after", ["99999999999999999999", "inf", "date"])
def test_a_long_wait_is_told_as_progress(alone: Rig, protocol: str, after: str) -> None:
    """And it can be left: the fill ends with its last waiter."""
    said = formatdate(4_000_000_000, usegmt=True) if after == "date" else after
    target = alone.make(protocol)
    alone.origin.fail("status", status=429, headers={"Retry-After": said}, times=EVER)
    waiting = threading.Event()

    class Enough(Exception):
        pass

    def look(progress: Progress) -> None:
        if progress.phase == "waiting for the source":
            waiting.set()
            raise Enough

    with pytest.raises(Enough), Client(alone.daemon.socket) as client:
        client.pull(target.uri, progress=look, abandon=True, timeout=30)
    assert waiting.is_set()
    alone.audit()
