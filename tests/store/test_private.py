"""What other users of the node can open below the root, and that no lock of theirs keeps the daemon waiting."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cached.config import Config, Size
from cached.errors import StoreDegraded
from cached.store.startup import preflight
from cached.store.store import Store

from .stored import add, as_layout_1

STRANGER = 65534
Open = Callable[[], Store]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")


@pytest.fixture
def store_root(place: Path) -> Path:
    """Where strangers can come to as well."""
    return place / "root"


@contextlib.contextmanager
def stranger() -> Iterator[None]:
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(STRANGER)
    os.seteuid(STRANGER)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def opened_by_a_stranger(root: Path) -> set[str]:
    """What a stranger can open to read, by its name below the root; the files of open models are for everybody."""
    names = list(root.rglob("*"))
    found = set()
    with stranger():
        for path in names:
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
                found.add(str(path.relative_to(root)))
    return found


def hold(path: Path, lock: Callable[[int], None]) -> int:
    """A descriptor that a stranger opened, and locked."""
    with stranger():
        fd = os.open(path, os.O_RDONLY)
        lock(fd)
    return fd


def flock(fd: int) -> None:
    fcntl.flock(fd, fcntl.LOCK_EX)


def in_a_child(work: Callable[[], None]) -> Callable[[], None]:
    """It has done its work when this returns, and keeps what that took until what is returned is called."""
    done, tell = os.pipe()
    hang, up = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(up)
        with contextlib.suppress(BaseException):
            work()
            os.write(tell, b".")
        os.read(hang, 1)
        os._exit(0)
    os.close(tell)
    assert os.read(done, 1) == b"."

    def end() -> None:
        os.close(up)
        os.waitpid(pid, 0)

    return end


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777], ids=oct)
def test_strangers_can_open_models_and_nothing_else(open_store: Open, umask: int) -> None:
    before = os.umask(umask)
    try:
        store = open_store()
        manifest = add(store, "m", {"config.json": b"{}"})
        store.index.touch({})
        found = opened_by_a_stranger(store.layout.root)
    finally:
        os.umask(before)
    here = f"snapshots/{manifest.digest.hex}"
    assert found == {here, f"{here}/config.json"}
    for name in ("index.db", "index.db-wal", "index.db-shm", "FORMAT"):
        assert stat.S_IMODE((store.layout.root / name).stat().st_mode) == 0o600, name


def test_a_root_that_strangers_could_read_is_closed_to_them_with_all_that_it_knows(open_store: Open) -> None:
    store = open_store()
    manifest = add(store, "m", {"config.json": b"{}"})
    store.index.pin(manifest.digest, None, 0)
    as_layout_1(store)
    old = os.open(store.layout.index, os.O_RDONLY)
    store = open_store()
    here = f"snapshots/{manifest.digest.hex}"
    assert opened_by_a_stranger(store.layout.root) == {here, f"{here}/config.json"}
    assert store.recovered.index == "kept" and store.index.query("SELECT 1 FROM pin") != []
    assert os.fstat(old).st_nlink == 0, "who has the old file open goes on reading the index"
    os.close(old)


def test_what_is_written_to_the_log_of_a_daemon_that_was_killed_is_kept_when_it_is_closed(open_store: Open) -> None:
    store = open_store()
    manifest = add(store, "m", {"config.json": b"{}"})
    keep = sqlite3.connect(store.layout.index)  # Whose closing, as the last, would empty the log.
    keep.execute("SELECT count(*) FROM snapshot").fetchall()
    store.index.pin(manifest.digest, None, 0)
    as_layout_1(store)
    assert store.layout.index.with_name("index.db-wal").stat().st_size
    store = open_store()
    assert store.recovered.index == "kept" and store.index.query("SELECT 1 FROM pin") != []
    keep.close()


def test_a_new_key_stands_for_credentials_once_strangers_may_have_read_the_old_one(open_store: Open) -> None:
    store = open_store()
    store.close()
    with contextlib.closing(sqlite3.connect(store.layout.index)) as db, db:
        db.execute("DELETE FROM _sqlite_migrations WHERE name = 'fingerprints_anew'")
        (before,) = db.execute("SELECT key FROM fingerprint").fetchone()
        db.execute("INSERT INTO proof VALUES ('probe', 'who', 'place', 1.0)")
    store = open_store()
    (row,) = store.index.query("SELECT key FROM fingerprint")
    assert row["key"] != before and store.index.query("SELECT * FROM proof") == []


@pytest.mark.parametrize("layout", [1, preflight.FORMAT])
def test_a_strangers_lock_on_format_stops_no_start(open_store: Open, layout: int) -> None:
    store = open_store()
    root = store.layout
    as_layout_1(store)
    if layout != 1:
        root.format.write_text(f"{layout}\n")  # As an operator's chmod leaves it.
    fd = hold(root.format, flock)
    store = open_store()
    assert root.format.read_text() == f"{preflight.FORMAT}\n"
    with pytest.raises(StoreDegraded, match="Another cached daemon is using"):
        Store(Config(root=root.root, keep_free=Size(0)))
    os.close(fd)


def test_a_strangers_lock_on_the_index_of_before_stops_no_write(open_store: Open) -> None:
    store = open_store()
    manifest = add(store, "m", {"config.json": b"{}"})
    keep = sqlite3.connect(store.layout.index)
    keep.execute("SELECT count(*) FROM snapshot").fetchall()
    as_layout_1(store)
    index = store.layout.index

    def lock() -> None:
        os.setresuid(STRANGER, STRANGER, STRANGER)
        for name in ("index.db", "index.db-wal", "index.db-shm"):
            fcntl.lockf(os.open(index.with_name(name), os.O_RDONLY), fcntl.LOCK_SH)

    end = in_a_child(lock)
    try:
        store = open_store()
        store.index.pin(manifest.digest, None, 0)
        store.close()
    finally:
        end()
        keep.close()


def test_a_daemon_of_layout_1_that_is_running_keeps_its_root(open_store: Open) -> None:
    """It has FORMAT open to write, which no stranger can have, in whatever pid namespace it is."""
    store = open_store()
    root = store.layout
    as_layout_1(store)
    store.close()
    before = sorted(os.listdir(root.root))

    def run() -> None:
        fcntl.flock(os.open(root.format, os.O_RDWR), fcntl.LOCK_EX)

    end = in_a_child(run)
    try:
        with pytest.raises(StoreDegraded, match="Another cached daemon is using"):
            open_store()
        assert root.format.read_text() == "1\n" and sorted(os.listdir(root.root)) == before
    finally:
        end()
    open_store()


def test_a_start_that_is_killed_while_it_replaces_format_is_begun_again(open_store: Open) -> None:
    store = open_store()
    as_layout_1(store)
    store.layout.next_format.write_text("")
    store = open_store()
    assert store.layout.format.read_text() == f"{preflight.FORMAT}\n" and not store.layout.next_format.exists()


def test_a_root_that_its_group_may_write_to_is_closed_to_it(open_store: Open) -> None:
    root = open_store().layout.root
    root.chmod(0o775)
    open_store()
    assert stat.S_IMODE(root.stat().st_mode) == 0o755
