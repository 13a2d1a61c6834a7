"""Threads that hold one lock of a store and want another never wait for each other."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cached.access import Access
from cached.daemon.space.eviction_policy import Wish
from cached.daemon.space.evictor import Evictor
from cached.errors import TooManyUsers
from cached.model import Digest
from cached.store import permissions
from cached.store.private import open_safely
from cached.store.snapshots import leases, locks
from cached.store.snapshots.acl import allow
from cached.store.store import Store

from .stored import add, key, lock_file

Open = Callable[[], Store]
CLOSED = Access("caller", 'place:["place","config.json","v1",2]')


def closed(store: Store, name: str) -> Digest:
    """A model that only those may enter who prove that they may."""
    digest = add(store, name, {"config.json": b"{}", "w": name.encode()}).digest
    store.resolved({key(name): (f"s3://bucket/{name}", "revision")}, digest, CLOSED)
    return digest


class Ranked:
    """A lock in its place in the order: to take it while a later one is held is noted."""

    def __init__(self, real: Any, rank: int, held: threading.local, wrong: list[tuple[int, int]]) -> None:
        self._real, self._rank, self._held, self._wrong = real, rank, held, wrong

    def __enter__(self) -> None:
        ranks = self._held.__dict__.setdefault("ranks", [])
        if self._rank not in ranks:  # Taken again, it waits for nobody.
            self._wrong.extend((rank, self._rank) for rank in ranks if rank > self._rank)
        self._real.acquire()
        ranks.append(self._rank)

    def __exit__(self, *_: object) -> None:
        self._held.ranks.remove(self._rank)
        self._real.release()


def ranked(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Pairs of places in the order that were taken the wrong way round, from now on."""
    held, wrong = threading.local(), list[tuple[int, int]]()
    owners = [(store.leases, "_changing"), (store, "_publishing"), (store.entrants, "_lock"), (store.index, "_lock")]
    for rank, (owner, name) in enumerate(owners):
        monkeypatch.setattr(owner, name, Ranked(getattr(owner, name), rank, held, wrong))
    trying = Ranked(locks.trying, len(owners), held, wrong)
    for module in (locks, leases):
        monkeypatch.setattr(module, "trying", trying)
    return wrong


def full_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next list of users is too long for the disk."""
    left = [True]

    def allow_(path: Path, rights: int, uids: list[int] | None) -> None:
        if left:
            left.pop()
            raise TooManyUsers("There are too many.")
        allow(path, rights, uids)

    monkeypatch.setattr(permissions, "allow", allow_)


def crowd(store: Store, snapshot: Digest, until: float) -> None:
    for uid in range(4001, 4011):
        store.entrants.enter(snapshot, uid, until)
        lock_file(store, snapshot, uid)


def test_the_locks_of_a_store_are_taken_in_one_order(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store()
    one, two = closed(store, "one"), closed(store, "two")
    wrong = ranked(store, monkeypatch)
    crowd(store, one, 100.0)
    full_once(monkeypatch)
    store.entrants.enter(one, 4100, 4e9)  # Others make room for it, and lose their lock files.
    crowd(store, one, 100.0)
    assert store.entrants.sweep(200.0) == 10
    crowd(store, one, 100.0)
    full_once(monkeypatch)
    store.resolved({key("one"): ("s3://bucket/one", "revision")}, one, CLOSED)
    store.relink(one)
    closed(store, "three")
    store.drop_surplus()
    assert Evictor(store, 0, {}).free(1, Wish("for a test")).victims
    store.evict(two, "test")
    assert wrong == []


class Meeting:
    """The first lock of each of two threads: neither goes on before both have it, or one waits for the other."""

    def __init__(self, real: Any, barrier: threading.Barrier) -> None:
        self._real, self._barrier = real, barrier

    def __enter__(self) -> None:
        self._real.acquire()
        with contextlib.suppress(threading.BrokenBarrierError):
            self._barrier.wait(2)

    def __exit__(self, *_: object) -> None:
        self._real.release()


@contextlib.contextmanager
def meeting(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    barrier = threading.Barrier(2)
    monkeypatch.setattr(store.leases, "_changing", Meeting(store.leases._changing, barrier))
    monkeypatch.setattr(store.entrants, "_lock", Meeting(store.entrants._lock, barrier))
    yield


def leave(store: Store, snapshot: Digest, monkeypatch: pytest.MonkeyPatch) -> None:
    store.entrants.sweep(200.0)


def make_room(store: Store, snapshot: Digest, monkeypatch: pytest.MonkeyPatch) -> None:
    full_once(monkeypatch)
    store.entrants.enter(snapshot, 4100, 4e9)


@pytest.mark.parametrize("put_out", [leave, make_room])
def test_users_are_put_out_while_a_model_is_removed(
    open_store: Open, monkeypatch: pytest.MonkeyPatch, put_out: Callable[[Store, Digest, pytest.MonkeyPatch], None]
) -> None:
    store = open_store()
    one, two = closed(store, "one"), closed(store, "two")
    crowd(store, one, 100.0)
    with meeting(store, monkeypatch):
        calls = [lambda: put_out(store, one, monkeypatch), lambda: store.evict(two, "test")]
        threads = [threading.Thread(target=call, daemon=True) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        stuck = [thread for thread in threads if thread.is_alive()]
        assert not stuck, "they wait for each other"
    assert not store.layout.snapshot(two).exists()
    assert sorted(os.listdir(store.layout.locks(one))) == []


def test_a_lock_file_that_came_back_under_its_name_is_not_the_one_that_goes(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    snapshot = closed(store, "one")
    file = Path(lock_file(store, snapshot, 4001))
    real = open_safely

    def open_(path: str, flags: int) -> int:
        fd = real(path, flags)
        file.rename(file.with_name("gone"))
        lock_file(store, snapshot, 4001)
        return fd

    monkeypatch.setattr(leases, "open_safely", open_)
    store.leases.drop(snapshot, 4001)
    assert file.exists()
