"""The gate, on a real disk and with no socket: who is let in, and for how long."""

from __future__ import annotations

import asyncio
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cached.access import Access, Credentials
from cached.config import Config, Size
from cached.daemon.access.callers import Caller
from cached.daemon.acquire.authorization import TIME_TO_LEASE, Claim, Gate
from cached.daemon.space.disks import Disks
from cached.model import Digest
from cached.model_ref import ModelRef
from cached.store.store import Store
from tests.store.stored import add

REF = ModelRef.parse("s3://bucket/m")
CALLER = Access("caller", 'place:["place","config.json","v1",2]')
UID = 4001


class Door:
    """A model on a disk, and the gate before it."""

    def __init__(self, config: Config) -> None:
        self.store = Store(config)
        disks = Disks([self.store], [])
        self.gate, (self.disk,) = Gate(config, disks), disks
        self.snapshot: Digest = add(self.store, "m", {"config.json": b"{}"}).digest

    def mode(self) -> int:
        return stat.S_IMODE(self.store.snapshots.path(self.snapshot).stat().st_mode)

    def close(self) -> None:
        """To those who are in its tests: the model stops being everybody's."""
        self.store.closed(REF.key, "", self.snapshot)

    def let_in(self, token: str) -> None:
        asyncio.run(self.gate.let_in(self.disk, REF, self.snapshot, caller(token)))

    def prove(self, token: str) -> None:
        """The source has let it read the model, so it is let in."""
        names = {REF.key: (str(REF), "revision")}
        asyncio.run(self.gate.proved(self.disk, Claim(REF, self.snapshot, CALLER, caller(token)), names))
        self.let_in(token)

    def refuse(self, token: str) -> None:
        asyncio.run(self.gate.refused(self.disk, Claim(REF, self.snapshot, CALLER, caller(token))))

    def left(self) -> float:
        """For how many seconds the user is let in, whatever it leases."""
        return self.store.entrants.until(self.snapshot, UID) - time.time()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(Config(root=tmp_path / "root", keep_free=Size(0)))
    yield door
    door.store.close()


def caller(token: str) -> Caller:
    """Of one user, whoever's the token is."""
    return Caller(UID, Credentials({"AWS_ACCESS_KEY_ID": token} if token else {}, lend=False))


def test_who_is_given_an_open_model_can_enter_though_the_disk_was_behind_the_index(door: Door) -> None:
    door.store.snapshots.path(door.snapshot).chmod(0o500)
    door.let_in("")
    assert door.mode() == 0o555


def test_who_is_refused_can_still_lease_what_it_was_told_of_and_is_shut_out_then(door: Door) -> None:
    door.close()
    door.prove("token")
    assert door.left() > 2 * TIME_TO_LEASE
    door.refuse("token")
    assert TIME_TO_LEASE / 2 < door.left() <= TIME_TO_LEASE
    assert door.store.entrants.sweep(time.time()) == 0
    assert door.store.entrants.sweep(time.time() + TIME_TO_LEASE + 1) == 1
    assert door.left() < 0


def test_a_refusal_gives_nobody_more_time(door: Door) -> None:
    door.close()
    door.store.entrants.enter(door.snapshot, UID, time.time() + 1)
    door.refuse("token")
    assert door.left() <= 1


def test_a_refusal_takes_nothing_from_what_the_user_has_proved_otherwise(door: Door) -> None:
    door.close()
    door.prove("token")
    door.prove("another")
    for refused in ("", "another", "a third"):
        door.refuse(refused)
        assert door.left() > 2 * TIME_TO_LEASE
    door.refuse("token")
    assert door.left() <= TIME_TO_LEASE
