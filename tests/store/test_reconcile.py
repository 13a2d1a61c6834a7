"""What a start makes of what a crash left: removals, downloads, leases; and that it may itself be killed anywhere."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cached.config import Config, Size
from cached.model import PIECE_BYTES, Digest
from cached.store.disk import delete_tree
from cached.store.store import Store

from .harm import (
    MODEL,
    OpenStore,
    add_a_foreign_folder,
    garble_manifest,
    is_whole,
    lose_blob,
    lose_directory,
    lose_folder,
    lose_name,
    make_stray,
    name_in,
    park,
    sql,
    state,
)
from .stored import add, files, key, lock_file


def test_a_snapshot_without_a_readable_manifest_is_removed_unless_somebody_holds_it(open_store: OpenStore) -> None:
    store = open_store()
    manifest, free = add(store, "m", MODEL), add(store, "free", {"config.json": b"free"})
    fd = os.open(lock_file(store, manifest), os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    for each, path in ((manifest, "deep/er/w"), (free, "config.json")):
        garble_manifest(store, each)
        name_in(store, each, path).unlink()  # So that the directory cannot prove the manifest either.
    store = open_store()
    assert not store.snapshots.path(free.digest).exists() and not store.snapshots.manifest(free.digest).exists()
    assert state(store, manifest) == "damaged" and store.index.find(key("m")) is None
    assert (store.snapshots.path(manifest.digest) / "config.json").read_bytes() == b"{}"
    os.close(fd)
    store = open_store()
    assert state(store, manifest) is None and files(store) == []


def test_a_removal_that_a_crash_interrupted_after_its_row_was_dropped_is_finished(open_store: OpenStore) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    store.index.forget(manifest.digest, "evicted", "test")
    lose_directory(store, manifest)
    store = open_store()
    assert files(store) == [] and store.usage().used == 0


def test_a_parked_download_reserves_what_its_file_takes_on_the_disk(open_store: OpenStore) -> None:
    store = open_store()
    park(store, "a" * 64, PIECE_BYTES + 5)
    with (store.layout.ingest / f"{'a' * 64}.part").open("r+b") as part:
        os.posix_fallocate(part.fileno(), 0, 1 << 20)
    sql(store, "UPDATE reservation SET bytes = 1 << 60, size = 1")
    store = open_store()
    assert store.usage().reserved == 1 << 20 and store.recovered.parts_kept == 1
    found = store.promises.reservations()["a" * 64]
    assert (found.bytes, found.size) == (1 << 20, PIECE_BYTES + 5)


def test_a_download_of_one_piece_is_not_kept_as_there_is_nothing_to_resume(open_store: OpenStore) -> None:
    store = open_store()
    park(store, "a" * 64, 5)
    store = open_store()
    assert store.usage().reserved == 0 and files(store) == []


def test_descriptions_of_leases_end_with_their_process(open_store: OpenStore) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    gone = int(Path("/proc/sys/kernel/pid_max").read_text())
    leases = [(manifest.digest, os.getpid(), 0, "me", time.time()), (manifest.digest, gone, 0, "gone", time.time())]
    store.index.touch({}, leases)
    assert [row["pid"] for row in open_store().index.query("SELECT pid FROM lease")] == [os.getpid()]
    sql(store, "UPDATE lease SET since = 1")
    assert open_store().index.query("SELECT pid FROM lease") == [], "of an earlier boot"


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


CALLS = ("rename", "link", "unlink", "chmod", "rmdir", "mkdir")


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts down with every change to the disk, and kills at zero."""
    left, mkdir = [1 << 60], os.mkdir

    def counted(call: Callable[..., None]) -> Callable[..., None]:
        def counting(*given: object, **more: object) -> None:
            if call is not mkdir or not os.path.lexists(str(given[0])):  # Else it changes nothing, 256 times a start.
                left[0] -= 1
            if left[0] == 0:
                raise Killed
            if left[0] > 0:
                call(*given, **more)

        return counting

    for name in CALLS:
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    yield left


def test_killed_anywhere_the_next_start_converges(in_memory: Path, dying: list[int]) -> None:
    def open_store() -> Store:
        opened.append(Store(Config(root=in_memory / "root", keep_free=Size(0))))
        return opened[-1]

    def restart() -> Store:
        opened.pop().close()
        return open_store()

    opened: list[Store] = []
    store = open_store()
    models = {f"m{n}": {**MODEL, "n": b"%d" % n} for n in range(4)}
    manifests = {name: add(store, name, content) for name, content in models.items()}
    lose_blob(store, manifests["m0"])
    lose_name(store, manifests["m0"])
    lose_folder(store, manifests["m1"])
    add_a_foreign_folder(store, manifests["m2"])
    garble_manifest(store, manifests["m2"])
    store.index.condemn(Digest.of(b"3"), "a check failed")
    sql(store, "UPDATE snapshot SET size = 1")
    make_stray(store.layout.snapshots / "stray", "directory")
    store.close()
    opened.pop()
    copy(store.layout.root, in_memory / "saved")
    points = 0
    for at in range(1, 10_000):
        delete_tree(store.layout.root)
        copy(in_memory / "saved", store.layout.root)
        dying[0] = at
        try:
            store = open_store()
        except Killed:
            points += 1
            dying[0] = 1 << 60
            store = open_store()
        else:
            dying[0] = 1 << 60
            break
        assert [n for n in models if not is_whole(store, manifests[n], models[n])] == [], f"killed at change {at}"
        assert not list(store.layout.trash.iterdir()) and not list(store.layout.ingest.iterdir())
        assert restart().recovered.changed == {}, f"killed at change {at}"
        opened.pop().close()
    opened.pop().close()
    assert points > 20


def copy(source: Path, target: Path) -> None:
    """Hard links stay hard links."""
    assert os.system(f"cp -a {source} {target}") == 0
