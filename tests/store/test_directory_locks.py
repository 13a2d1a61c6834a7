"""What was leased while a root could not be written to is a lock on a directory, which anybody inside can take."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cached.config import Config, Size
from cached.model import Digest
from cached.store.snapshots import directory_locks
from cached.store.snapshots.locks import holders
from cached.store.store import Store

from .stored import add

Open = Callable[[], Store]


def locked(store: Store, snapshot: Digest) -> int:
    fd = os.open(store.snapshots.path(snapshot), os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    return fd


def test_a_directory_that_was_locked_at_the_start_is_leased_until_it_is_let_go(open_store: Open) -> None:
    store = open_store()
    snapshot = add(store, "m", {"w": b"weights"}).digest
    fd = locked(store, snapshot)
    store = open_store()
    assert len(store.leases.of(snapshot)) == 1
    assert store.leases.protected([snapshot]) == {snapshot}
    assert store.leases.users(snapshot, holders()) == {os.geteuid()}
    assert not store.evict(snapshot, "test")
    os.close(fd)
    assert store.leases.of(snapshot) == [] and store.leases.protected([snapshot]) == set()
    again = locked(store, snapshot)
    assert store.evict(snapshot, "test"), "it was let go of"
    os.close(again)


def test_a_removal_that_a_crash_interrupted_is_not_finished_while_the_directory_is_leased(open_store: Open) -> None:
    store = open_store()
    snapshot = add(store, "m", {"w": b"weights"}).digest
    fd = locked(store, snapshot)
    assert store.index.evicting(snapshot)
    store = open_store()
    assert store.index.ready(snapshot)
    os.close(fd)


def test_a_directory_that_is_locked_later_is_no_lease(open_store: Open) -> None:
    store = open_store()
    snapshot = add(store, "m", {"w": b"weights"}).digest
    fd = locked(store, snapshot)
    assert store.leases.of(snapshot) == [] and store.leases.users(snapshot, holders()) == set()
    assert store.evict(snapshot, "test")
    os.close(fd)


@pytest.mark.parametrize("told", [True, False])
def test_directories_that_one_user_or_nobody_known_locks_keep_a_bounded_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    config = Config(root=tmp_path / "root", keep_free=Size(0), max_leases_per_user=2)
    store = Store(config)
    snapshots = [add(store, f"m{number}", {"w": b"%d" % number}).digest for number in range(4)]
    fds = [locked(store, snapshot) for snapshot in snapshots]
    store.close()
    if not told:  # By a fork of a process that has ended, or in another pid namespace.
        monkeypatch.setattr(directory_locks, "user_of", lambda pid: None)
    store = Store(config)
    kept = store.leases.protected(snapshots)
    assert len(kept) == 2
    assert {snapshot for snapshot in snapshots if not store.evict(snapshot, "test")} == kept
    for fd in fds:
        os.close(fd)
    store.close()


def test_who_cannot_be_told_keeps_nobody_from_being_shut_out(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store()
    snapshot = add(store, "m", {"w": b"weights"}).digest
    fd = locked(store, snapshot)
    monkeypatch.setattr(directory_locks, "user_of", lambda pid: None)
    store = open_store()
    assert store.leases.users(snapshot, holders()) == set() and not store.evict(snapshot, "test")
    os.close(fd)
