"""Whoever cannot tell whether a snapshot is held does not remove it."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cached.config import Config, Size
from cached.daemon.space.evictor import Evictor, Wish
from cached.model import Manifest
from cached.store.snapshots.acl import allowed
from cached.store.snapshots.leases import BEFORE, SHARED
from cached.store.snapshots.locks import holders
from cached.store.snapshots.snapshots import Origin
from cached.store.store import Store

from .stored import add, as_layout_1, files, key, lock_file

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


def test_each_user_gets_a_lock_file_of_its_own_that_it_alone_can_open(open_store: Open) -> None:
    store = open_store()
    snapshot = add(store, "m", {"w": b"weights"}).digest
    found = {uid: Path(lock_file(store, snapshot, uid)) for uid in (4001, 4002)}
    for uid, path in found.items():
        assert path == store.layout.locks(snapshot) / str(uid)
        assert allowed(path) == {uid} and stat.S_IMODE(path.stat().st_mode) == 0o440
        assert path.stat().st_uid == os.geteuid(), "an owner could let others in"
    assert stat.S_IMODE(store.layout.locks(snapshot).stat().st_mode) == 0o711


def test_without_acls_all_users_share_one_lock_file(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store()
    snapshot = add(store, "m", {"w": b"weights"}).digest

    def unsupported(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", unsupported)
    shared = store.layout.locks(snapshot) / SHARED
    assert {lock_file(store, snapshot, uid) for uid in (4001, 4002)} == {str(shared)}
    assert stat.S_IMODE(shared.stat().st_mode) == 0o444
    with shared.open() as lease:
        fcntl.flock(lease, fcntl.LOCK_SH)
        assert not store.evict(snapshot, "test")
        assert store.leases.users(snapshot, holders()) == {os.geteuid()}
    assert store.evict(snapshot, "test") and not shared.exists()


def test_users_whom_the_daemons_user_namespace_does_not_know_share_one_lock_file(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cached.config import Config, Size; "
        "from cached.store.store import Store; from tests.store.stored import add, lock_file; "
        "store = Store(Config(root=Path(sys.argv[1]), keep_free=Size(0))); manifest = add(store, 'm', {'w': b'w'}); "
        "print(*(Path(lock_file(store, manifest, uid)).name for uid in (0, 4001, 65534)))"
    )
    command = ["unshare", "-U", "-r", sys.executable, "-c", code, str(tmp_path / "root")]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (shown.stdout.split(), shown.returncode) == (["0", SHARED, SHARED], 0), shown.stderr


def lease(store: Store, name: str, uid: int) -> tuple[Manifest, int]:
    """Of a new model, by a user that was handed it just now."""
    manifest = add(store, name, {"w": name.encode()})
    fd = os.open(lock_file(store, manifest, uid), os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    return manifest, fd


def test_a_user_beyond_its_bound_loses_what_it_was_handed_longest_ago_and_nobody_elses(tmp_path: Path) -> None:
    store = Store(Config(root=tmp_path / "root", keep_free=Size(0), max_leases_per_user=2))
    theirs, kept = lease(store, "theirs", 4002)
    mine = [lease(store, f"m{number}", 4001) for number in range(4)]
    for number, (manifest, _) in enumerate(mine):
        os.utime(store.leases.file(manifest.digest, 4001), (1000 + number, 1000 + number))
    first = mine[0][0].digest
    store.leases.note(first, 4001)  # Handed out again.
    of_all = store.leases.protected([manifest.digest for manifest in (theirs, *(m for m, _ in mine))])
    assert of_all == {theirs.digest, first, mine[3][0].digest}
    assert [store.evict(manifest.digest, "test") for manifest, _ in mine] == [False, True, True, False]
    assert not store.evict(theirs.digest, "test")
    assert os.fstat(mine[1][1]).st_nlink == 0, "its holder can see that it has gone"
    for fd in (kept, *(fd for _, fd in mine)):
        os.close(fd)
    store.close()


def test_what_two_users_lease_stays_for_the_one_that_is_within_its_bound(tmp_path: Path) -> None:
    store = Store(Config(root=tmp_path / "root", keep_free=Size(0), max_leases_per_user=1))
    manifest, fd = lease(store, "m", 4001)
    _, later = lease(store, "later", 4001)
    os.utime(store.leases.file(manifest.digest, 4001), (1000, 1000))
    with open(lock_file(store, manifest, 4002)) as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert manifest.digest in store.leases.protected([manifest.digest])
        assert not store.evict(manifest.digest, "test")
    assert store.evict(manifest.digest, "test")
    for each in (fd, later):
        os.close(each)
    store.close()


def test_a_lock_file_that_nobody_holds_goes_with_the_next_start_or_with_its_users_access(open_store: Open) -> None:
    store = open_store()
    snapshot = add(store, "m", {"w": b"weights"}).digest
    lock_file(store, snapshot, 4001)
    held, free = Path(lock_file(store, snapshot, 4002)), store.layout.locks(snapshot) / "4003"
    with held.open() as lease:
        fcntl.flock(lease, fcntl.LOCK_SH)
        (store.layout.locks(snapshot) / "foreign").write_bytes(b"?")
        store = open_store()
        assert [path.name for path in store.layout.locks(snapshot).iterdir()] == ["4002"]
        store.leases.make(snapshot, 4003)
        for uid in (4002, 4003):
            store.leases.drop(snapshot, uid)
        assert held.exists() and not free.exists()
    store = open_store()
    assert not store.layout.locks(snapshot).exists()


def test_what_a_daemon_of_layout_1_had_leased_counts_until_it_is_let_go_or_the_next_boot(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    manifest = add(store, "m", {"w": b"weights"})
    as_layout_1(store)
    fd = os.open(store.snapshots.manifest(manifest.digest), os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    store = open_store()
    before = store.layout.locks(manifest.digest) / BEFORE
    assert not store.evict(manifest.digest, "test")
    store.snapshots.rewrite(manifest, Origin("ref", "source", "revision"))  # Into another file.
    assert not store.evict(manifest.digest, "test")
    os.close(fd)
    store = open_store()
    assert before.exists(), "a client may have opened it, and not have locked it yet"
    monkeypatch.setattr("cached.store.startup.reconcile.booted", lambda: time.time() + 1)
    assert open_store() and not before.exists()
