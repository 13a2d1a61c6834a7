from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable

import pytest

from cached.config import Config
from cached.daemon.space.evictor import Evictor, Wish
from cached.errors import NoSpace, StoreDegraded
from cached.model import Digest
from cached.store.blobs.verify import check
from cached.store.snapshots.locks import holders
from cached.store.store import Store
from tests.waiting import until

from .harm import aside
from .stored import add, files, key, lock_file


def test_a_committed_snapshot_is_made_of_hard_links_that_nobody_may_write(open_store: Callable[[], Store]) -> None:
    store = open_store()
    manifest = add(store, "m", {"config.json": b"{}", "deep/er/w.safetensors": b"weights"})
    path = store.snapshots.path(manifest.digest)
    weights = path / "deep/er/w.safetensors"
    assert weights.read_bytes() == b"weights"
    assert weights.stat().st_ino == store.blobs.path(Digest.of(b"weights")).stat().st_ino
    assert weights.stat().st_mode & 0o777 == 0o444
    assert {folder.stat().st_mode & 0o777 for folder in (path, path / "deep", path / "deep/er")} == {0o555}


def test_the_same_bytes_are_one_blob_and_one_inode(open_store: Callable[[], Store]) -> None:
    store = open_store()
    one = add(store, "one", {"config.json": b"1", "w": b"shared"})
    two = add(store, "two", {"config.json": b"2", "other/name": b"shared"})
    a = store.snapshots.path(one.digest) / "w"
    b = store.snapshots.path(two.digest) / "other/name"
    assert a.stat().st_ino == b.stat().st_ino
    assert store.usage().used == len(b"1" + b"2" + b"shared")


def test_eviction_frees_only_what_no_other_snapshot_has(open_store: Callable[[], Store]) -> None:
    store = open_store()
    one = add(store, "one", {"config.json": b"1", "w": b"shared"})
    two = add(store, "two", {"config.json": b"2", "w": b"shared"})
    assert store.evict(one.digest, "test")
    assert (store.snapshots.path(two.digest) / "w").read_bytes() == b"shared"
    assert store.usage().used == len(b"2" + b"shared")
    assert store.evict(two.digest, "test")
    assert files(store) == []


def test_a_leased_snapshot_is_not_evicted(open_store: Callable[[], Store]) -> None:
    store = open_store()
    manifest = add(store, "m", {"w": b"weights"})
    fd = os.open(lock_file(store, manifest), os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    status = os.fstat(fd)
    assert holders()[status.st_dev, status.st_ino] == {os.getpid()}
    assert not store.evict(manifest.digest, "test")
    assert store.index.find(key("m")) is not None
    os.close(fd)
    assert store.evict(manifest.digest, "test")


def test_a_pinned_snapshot_is_not_evicted_and_an_expired_pin_holds_nothing(open_store: Callable[[], Store]) -> None:
    store = open_store()
    manifest = add(store, "m", {"w": b"weights"})
    store.index.pin(manifest.digest, None, 0)
    assert not store.evict(manifest.digest, "test")
    store.index.pin(manifest.digest, 1.0, 0)
    assert store.evict(manifest.digest, "test")


def refused(fd: int) -> bool:
    """Whether a lease is: somebody excludes them."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def test_a_snapshot_that_is_pinned_while_its_removal_waits_stays(open_store: Callable[[], Store]) -> None:
    store = open_store()
    manifest = add(store, "m", {"w": b"weights"})
    gone: list[bool] = []
    fd = os.open(lock_file(store, manifest), os.O_RDONLY)
    remover = threading.Thread(target=lambda: gone.append(store.evict(manifest.digest, "test")))
    with store._publishing:  # As a commit has it.
        remover.start()
        until(lambda: refused(fd))
        add(store, "m", {"w": b"weights"})
        store.index.pin(manifest.digest, None, 0)
    remover.join()
    assert gone == [False]
    assert store.index.find(key("m")) is not None
    assert (store.snapshots.path(manifest.digest) / "w").read_bytes() == b"weights"


def test_a_removal_that_failed_can_be_tried_again(
    open_store: Callable[[], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    manifest = add(store, "m", {"w": b"weights"})

    def full(snapshot: Digest, what: str, why: str) -> None:
        raise NoSpace("The disk filled up while the index was written.")

    with monkeypatch.context() as patch, pytest.raises(NoSpace):
        patch.setattr(store.index, "forget", full)
        store.evict(manifest.digest, "test")
    assert Evictor(store, 0, ()).free(1, Wish("test")).victims
    assert files(store) == []


def test_a_lost_index_is_rebuilt_from_the_disk(open_store: Callable[[], Store]) -> None:
    manifest = add(open_store(), "m", {"config.json": b"{}", "w": b"weights"})
    store = open_store()
    store.layout.index.unlink()
    store = open_store()
    known = store.index.find(key("m"))
    assert known is not None and known.snapshot == manifest.digest
    assert known.checked_at == 0, "a moving name must be asked again before it is believed"
    assert store.usage().used == len(b"{}weights")


def test_a_damaged_index_is_put_aside_and_rebuilt(open_store: Callable[[], Store]) -> None:
    store = open_store()
    add(store, "m", {"w": b"weights"})
    index = store.layout.index
    store.close()
    index.write_bytes(b"not a database" * 1000)
    (index.parent / "index.db-wal").unlink(missing_ok=True)
    store.__init__(Config(root=store.layout.root))  # type: ignore[misc]
    assert store.index.find(key("m")) is not None
    assert [path.name[:8] for path in store.layout.quarantine.iterdir()] == ["index.db"]


def test_an_index_of_a_newer_version_is_refused(open_store: Callable[[], Store]) -> None:
    store = open_store()
    path = store.layout.index
    store.close()
    with sqlite3.connect(path) as db:
        db.execute(
            "INSERT INTO _sqlite_migrations SELECT 99, migration_set, 'from_the_future', applied_at "
            "FROM _sqlite_migrations LIMIT 1"
        )
    with pytest.raises(StoreDegraded, match="newer"):
        Store(Config(root=store.layout.root))
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM _sqlite_migrations WHERE name = 'from_the_future'")
    store.__init__(Config(root=store.layout.root))  # type: ignore[misc]


def test_what_no_row_accounts_for_is_gone_after_a_start(open_store: Callable[[], Store]) -> None:
    store = open_store()
    manifest = add(store, "m", {"w": b"weights"})
    place = store.layout.root
    stray = Digest.of(b"stray")
    store.blobs.path(stray).write_bytes(b"stray")
    (place / "ingest" / "old.part").write_bytes(b"x")
    (place / "ingest" / "old.tree").mkdir()
    (place / "trash" / "half").mkdir()
    (place / "snapshots" / "foreign").write_bytes(b"?")
    (place / "snapshots" / stray.hex).mkdir()
    store = open_store()
    expected = {store.blobs.path(Digest.of(b"weights")), store.snapshots.manifest(manifest.digest)}
    assert set(files(store)) == expected | {store.snapshots.path(manifest.digest) / "w"}
    assert not (place / "snapshots" / stray.hex).exists()


def test_a_row_without_its_file_is_never_handed_out(open_store: Callable[[], Store]) -> None:
    store = open_store()
    manifest = add(store, "m", {"w": b"weights"})
    store.blobs.path(Digest.of(b"weights")).unlink()
    name = store.snapshots.path(manifest.digest) / "w"
    name.parent.chmod(0o755)
    name.unlink()
    store = open_store()
    assert store.index.find(key("m")) is None
    assert store.usage().used == 0


def test_an_interrupted_removal_is_finished_by_the_next_start(open_store: Callable[[], Store]) -> None:
    store = open_store()
    manifest = add(store, "m", {"w": b"weights"})
    assert store.index.evicting(manifest.digest)
    store = open_store()
    assert store.index.find(key("m")) is None
    assert files(store) == []


def test_reservations_of_a_dead_fill_are_free_after_a_start(open_store: Callable[[], Store]) -> None:
    store = open_store()
    assert store.index.begin("s3://b/x", {"key": 1000}, [], 10_000) is not None
    assert store.usage().reserved == 1000
    assert open_store().usage().reserved == 0


def test_no_more_is_promised_than_the_limit(open_store: Callable[[], Store]) -> None:
    store = open_store()
    assert store.index.begin("a", {"one": 600}, [], 1000) is not None
    assert store.index.begin("b", {"two": 600}, [], 1000) is None
    assert store.index.begin("b", {"one": 600}, [], 1000) is not None, "a shared download is reserved once"
    assert store.usage().reserved == 600


def test_a_fill_cannot_count_on_a_blob_that_is_gone(open_store: Callable[[], Store]) -> None:
    store = open_store()
    with pytest.raises(LookupError):
        store.index.begin("a", {"k": 1}, [Digest.of(b"gone")], 1000)
    assert store.usage().reserved == 0


def test_a_blob_that_a_fill_holds_is_not_removed(open_store: Callable[[], Store]) -> None:
    store = open_store()
    manifest = add(store, "m", {"w": b"weights"})
    fill = store.index.begin("b", {}, [Digest.of(b"weights")], 1000)
    assert store.evict(manifest.digest, "test")
    assert store.blobs.size(Digest.of(b"weights")) == 7
    assert fill is not None
    store.index.abandon(fill, {})
    store.drop_orphans()
    assert store.blobs.size(Digest.of(b"weights")) is None


def test_a_damaged_blob_is_put_aside_and_not_handed_out(open_store: Callable[[], Store]) -> None:
    store = open_store()
    manifest, digest = add(store, "m", {"w": b"weights"}), Digest.of(b"weights")
    path = store.blobs.path(digest)
    path.chmod(0o644)
    path.write_bytes(b"wEights")
    found = check(str(path), digest, 7, None, deep=True)
    assert found.problem == "wrong sha256"
    assert store.condemn(digest, found) == [manifest.digest]
    assert store.index.find(key("m")) is None
    assert store.usage().used == 0
    assert [path.name[:64] for path in aside(store)] == [digest.hex]
    assert store.condemn(digest, found) is None


def test_a_held_lock_is_seen_and_a_missing_one_is_free(open_store: Callable[[], Store]) -> None:
    store = open_store()
    manifest = add(store, "m", {"w": b"weights"})
    assert store.leases.of(manifest.digest) == []
    with open(lock_file(store, manifest)) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert [held.uid for held in store.leases.of(manifest.digest)] == [os.geteuid()]
    assert store.leases.of(manifest.digest) == []
