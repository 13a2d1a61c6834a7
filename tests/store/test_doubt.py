"""What is already there, or was looked at a moment ago, is believed only as far as it has been checked."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cached.config import Config, Size
from cached.errors import StoreDegraded
from cached.model import PIECE_BYTES, Digest
from cached.store.blobs import piece_sums
from cached.store.blobs.quiet_reader import QuietReader
from cached.store.blobs.verify import Checkup, check
from cached.store.startup import read_only
from cached.store.store import Store
from tests.store.stored import add, key

DATA = b"weights" * 1000
BLOB = Digest.of(DATA)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(root=tmp_path / "root", keep_free=Size(0))


@pytest.fixture
def store(config: Config) -> Iterator[Store]:
    store = Store(config)
    yield store
    store.close()


def spoil(path: Path) -> None:
    """So that neither size nor times tell."""
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(DATA.replace(b"w", b"W", 1))
    path.chmod(0o444)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_fresh_bytes_are_not_given_up_for_a_damaged_file_of_their_name(store: Store) -> None:
    old = add(store, "old", {"w": DATA})
    spoil(store.blobs.path(BLOB))
    new = add(store, "new", {"other": DATA})
    assert (store.snapshots.path(new.digest) / "other").read_bytes() == DATA
    assert store.index.find(key("old")) is None, "the damage has been noticed"
    assert store.relink(old.digest)
    assert (store.snapshots.path(old.digest) / "w").read_bytes() == DATA
    assert store.index.find(key("old")) is not None


def test_a_snapshot_whose_blobs_are_here_is_mended_without_its_source(store: Store) -> None:
    manifest = add(store, "m", {"w": DATA})
    place = store.snapshots.path(manifest.digest)
    place.chmod(0o755)
    (place / "w").unlink()
    store.index.mark_damaged(manifest.digest)
    assert store.relink(manifest.digest)
    assert (place / "w").read_bytes() == DATA
    assert not store.relink(manifest.digest), "there is nothing to mend"


def test_a_check_of_one_file_condemns_no_other_that_took_its_place(store: Store) -> None:
    add(store, "m", {"w": DATA})
    path = store.blobs.path(BLOB)
    spoil(path)
    found = check(str(path), BLOB, len(DATA), None, deep=True)
    assert found.problem == "wrong sha256"
    path.unlink()
    path.write_bytes(DATA)
    assert store.condemn(BLOB, found) is None
    assert store.blob(BLOB) is not None


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM])
def test_what_the_process_lacks_is_no_damage(store: Store, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    add(store, "m", {"w": DATA})

    def refuse(self: QuietReader, path: str, direct: bool = False) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(QuietReader, "__init__", refuse)
    with pytest.raises(StoreDegraded) as raised:
        check(str(store.blobs.path(BLOB)), BLOB, len(DATA), None, deep=False)
    assert not raised.value.lasting


def test_what_the_disk_cannot_give_back_is_damage(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: QuietReader, path: str, direct: bool = False) -> None:
        raise OSError(errno.EIO, "Input/output error")

    add(store, "m", {"w": DATA})
    monkeypatch.setattr(QuietReader, "__init__", fail)
    found = check(str(store.blobs.path(BLOB)), BLOB, len(DATA), None, deep=False)
    assert found.problem == "unreadable: Input/output error"
    assert store.condemn(BLOB, found) is not None


def test_a_file_that_lost_its_permissions_is_read_and_given_them_back(store: Store) -> None:
    add(store, "m", {"w": DATA})
    path = store.blobs.path(BLOB)
    path.chmod(0)
    assert check(str(path), BLOB, len(DATA), None, deep=False).problem is None
    assert path.stat().st_mode & 0o777 == 0o444


def test_a_blob_is_published_though_its_sidecar_cannot_be(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(piece_sums, "write", full)
    large = b"x" * (PIECE_BYTES + 1)
    add(store, "m", {"w": large})
    assert store.usage().used == len(large)
    assert store.index.find(key("m")) is not None


def test_a_read_only_root_answers_from_a_copy_and_believes_no_row_that_was_altered(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(config)
    one, two = add(store, "one", {"w": b"1"}), add(store, "two", {"w": b"2"})
    with store.index.transaction() as db:
        db.execute("UPDATE resolution SET snapshot = ? WHERE ref = ?", (two.digest.hex, key("one")))
    store.close()
    monkeypatch.setattr("cached.store.store.read_only", lambda root: True)
    store = Store(config)
    assert store.frozen and isinstance(store.index, read_only.FrozenIndex)
    assert store.index.find(key("one")) is None
    known = store.index.find(key("two"))
    assert known is not None and known.snapshot == two.digest != one.digest
    store.close()
    monkeypatch.undo()
    Store(config).close()


def test_a_blob_that_somebody_condemned_is_not_condemned_again(store: Store) -> None:
    add(store, "m", {"w": DATA})
    status = store.blobs.path(BLOB).stat()
    found = Checkup("wrong sha256", seen=(status.st_ino, status.st_mtime_ns))
    assert store.condemn(BLOB, found) is not None
    assert store.condemn(BLOB, found) is None
