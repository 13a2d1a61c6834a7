"""The gate, on a real disk and with no socket: who is let in, and for how long."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cached.access import Credentials
from cached.config import Config, Size
from cached.daemon.callers import Caller
from cached.daemon.gate import Gate
from cached.daemon.space.disks import Disks
from cached.model import Digest, ModelRef
from cached.store.store import Store
from tests.store.stored import add

REF = ModelRef.parse("s3://bucket/m")


class Door:
    """A model on a disk, and the gate before it."""

    def __init__(self, config: Config) -> None:
        self.store = Store(config)
        disks = Disks([self.store], [])
        self.gate, (self.disk,) = Gate(config, disks), disks
        self.snapshot: Digest = add(self.store, "m", {"config.json": b"{}"}).digest

    def modes(self) -> list[int]:
        paths = self.store.snapshots.path(self.snapshot), self.store.snapshots.lock(self.snapshot)
        return [stat.S_IMODE(path.stat().st_mode) for path in paths]

    def let_in(self, caller: Caller) -> None:
        asyncio.run(self.gate.let_in(self.disk, REF, self.snapshot, caller))


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(Config(root=tmp_path / "root", keep_free=Size(0)))
    yield door
    door.store.close()


def caller(uid: int, token: str = "") -> Caller:
    return Caller(uid, Credentials({"AWS_ACCESS_KEY_ID": token} if token else {}))


def test_who_is_given_an_open_model_can_enter_though_the_disk_was_behind_the_index(door: Door) -> None:
    door.store.snapshots.path(door.snapshot).chmod(0o500)
    door.store.snapshots.lock(door.snapshot).chmod(0o400)
    door.let_in(caller(4001))
    assert door.modes() == [0o555, 0o444]
