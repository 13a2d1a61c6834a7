"""Whoever cannot tell whether a snapshot is held does not remove it."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from typing import Any

import pytest

from cached.daemon.space.evict import Evictor, Wish
from cached.store.store import Store

from .stored import add, files, key, lock_file

Open = Callable[[], Store]


def refuse_to_open(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """No lock file can be opened."""
    real = os.open

    def open_(path: Any, *arguments: Any, **options: Any) -> int:
        if os.fspath(path).endswith(f"/{os.geteuid()}"):
            raise OSError(number, os.strerror(number))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", open_)


def refuse_to_lock(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """No lock can be taken."""

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize(
    ("refuse", "number"),
    [
        *((refuse_to_open, number) for number in (errno.EIO, errno.EMFILE, errno.ENFILE, errno.EACCES, errno.ESTALE)),
        *((refuse_to_lock, number) for number in (errno.EIO, errno.ENOLCK)),
    ],
)
def test_a_lease_that_cannot_be_read_counts_as_held(
    open_store: Open, monkeypatch: pytest.MonkeyPatch, refuse: Callable[[pytest.MonkeyPatch, int], None], number: int
) -> None:
    store = open_store()
    manifest = add(store, "m", {"config.json": b"{}", "w": b"weights"})
    lock_file(store, manifest)
    before = files(store)
    refuse(monkeypatch, number)
    assert store.leases.of(manifest.digest)
    assert not store.evict(manifest.digest, "test")
    freed = Evictor(store, 0, {}).free(1 << 40, Wish("for a test"))
    assert (freed.victims, freed.freed) == ((), 0)
    assert files(store) == before
    known = store.index.find(key("m"))
    assert known is not None and known.snapshot == manifest.digest
    monkeypatch.undo()
    assert store.evict(manifest.digest, "test")


def test_a_removal_that_a_crash_interrupted_is_not_finished_while_its_lease_cannot_be_read(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    manifest = add(store, "m", {"w": b"weights"})
    fd = os.open(lock_file(store, manifest), os.O_RDONLY)  # Else a start would remove it, as nobody holds it.
    fcntl.flock(fd, fcntl.LOCK_SH)
    assert store.index.evicting(manifest.digest)
    refuse_to_open(monkeypatch, errno.EIO)
    store = open_store()
    assert (store.snapshots.path(manifest.digest) / "w").read_bytes() == b"weights"
    monkeypatch.undo()
    os.close(fd)
    assert store.evict(manifest.digest, "test")
    assert files(store) == []
