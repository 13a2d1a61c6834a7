"""Bodies of the right length with the wrong bytes.

Only a promised digest can tell: the Hub gives a sha256 of large files and git's sha1 of small ones. A bucket's ETag and
a web server's say which version it is, not what is in it, so there is nothing to test them against.
"""

from __future__ import annotations

import pytest

from cached import DigestMismatch
from cached.model import PIECE_BYTES
from tests.faults.rig import Rig
from tests.servers.fault_kinds import EVER


@pytest.mark.parametrize("kind", ["wrong", "hole"])
def test_wrong_bytes_are_fetched_again(rig: Rig, size: str, kind: str) -> None:
    target = rig.make("hub", size)
    fault = rig.origin.fail(kind, at=target.middle)
    rig.recovers(target)
    assert fault.struck == 1


@pytest.mark.parametrize("kind", ["wrong", "hole"])
def test_wrong_bytes_are_never_published(rig: Rig, size: str, kind: str) -> None:
    target = rig.make("hub", size)
    rig.origin.fail(kind, times=EVER)
    rig.refuses(target, DigestMismatch)


@pytest.mark.parametrize("times", [2, EVER], ids=["once", "always"])
def test_swapped_pieces_are_never_published(rig: Rig, times: int) -> None:
    target = rig.make("hub", "large")
    other = rig.bytes(2 * PIECE_BYTES)
    rig.origin.put(target.model, {target.path: other})
    rig.origin.fail("swapped", times=times)
    outcome = rig.survives(target, other)
    assert times == 2 or isinstance(outcome, DigestMismatch), repr(outcome)
