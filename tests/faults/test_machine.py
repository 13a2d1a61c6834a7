"""The state machine by itself, and that it sees what it is there for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from cached.model import Digest, Manifest
from cached.store import store as stores
from cached.store.blobs.verify import Checkup
from cached.store.index.index import Index
from cached.store.index.promises import Promises
from cached.store.snapshots.leases import Leases
from cached.store.snapshots.snapshots import Snapshots
from tests.faults import machine
from tests.faults.machine import explore


def test_whatever_is_done_in_whatever_order_every_invariant_holds() -> None:
    explore(150, 30)


@contextlib.contextmanager
def _free(self: Leases, snapshot: Digest) -> Iterator[bool]:
    yield True


def without_the_exclusive_lock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leases, "exclusive", _free)
    patch.setattr(Leases, "protected", lambda self, snapshots: set())


def with_room_that_nobody_checks(patch: pytest.MonkeyPatch) -> None:
    grant = Promises.grant
    patch.setattr(
        Promises, "grant", lambda self, fill, steps, capacity, most, rest: grant(self, fill, steps, 1 << 40, most, rest)
    )


def with_victims_that_go_before_their_room_is_needed(patch: pytest.MonkeyPatch) -> None:
    begin = Index.begin

    def begin_(self: Index, *args: Any) -> int | None:
        for digest in args[4].snapshots:
            self.forget(digest, "evicted", "at once")
        return begin(self, *args[:4], replace(args[4], snapshots=()))

    patch.setattr(Index, "begin", begin_)


def with_removals_that_leave_the_blobs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stores.Blobs, "remove", lambda self, digest: None)


def with_damage_that_is_not_mended(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Snapshots, "mend", _farm_only)


def _farm_only(self: Snapshots, manifest: Manifest) -> None:
    if not self.path(manifest.digest).is_dir():
        self._farm(self.path(manifest.digest), manifest)


def with_checks_that_find_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(machine.verify, "check", lambda *_, **__: Checkup(None))


@pytest.mark.parametrize(
    "broken",
    [
        without_the_exclusive_lock,
        with_room_that_nobody_checks,
        with_victims_that_go_before_their_room_is_needed,
        with_removals_that_leave_the_blobs,
        with_damage_that_is_not_mended,
        with_checks_that_find_nothing,
    ],
)
def test_the_machine_sees_a_store_that_is_broken(broken: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(broken)
    broken(monkeypatch)
    with pytest.raises(AssertionError):
        explore(150, 30, shortest=False)
