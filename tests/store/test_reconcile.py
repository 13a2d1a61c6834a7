"""What a start makes of what a crash left: removals, downloads, leases; and that it may itself be killed anywhere."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cached.model import PIECE_BYTES, Digest
from cached.store import reconcile

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
from .stored import add, files, key


def test_a_snapshot_without_a_readable_manifest_is_removed_unless_somebody_holds_it(open_store: OpenStore) -> None:
    store = open_store()
    manifest, free = add(store, "m", MODEL), add(store, "free", {"config.json": b"free"})
    fd = os.open(store.snapshots.lock(manifest.digest), os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    for each, path in ((manifest, "deep/er/w"), (free, "config.json")):
        garble_manifest(store, each)
        name_in(store, each, path).unlink()  # So that the directory cannot prove the manifest either.
    store = open_store()
    assert not store.snapshots.path(free.digest).exists() and not store.snapshots.lock(free.digest).exists()
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


def test_a_parked_download_reserves_what_its_file_takes(open_store: OpenStore) -> None:
    store = open_store()
    park(store, "a" * 64, PIECE_BYTES + 5)
    sql(store, "UPDATE reservation SET bytes = 1 << 60")
    store = open_store()
    assert store.usage().reserved == PIECE_BYTES + 5 and store.recovered.parts_kept == 1


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
    left = [1 << 60]

    def counted(call: Callable[..., None]) -> Callable[..., None]:
        def counting(*given: object, **more: object) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            if left[0] > 0:
                call(*given, **more)

        return counting

    for name in CALLS:
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    yield left


def test_killed_anywhere_the_next_start_converges(
    tmp_path: Path, open_store: OpenStore, dying: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
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
    saved = tmp_path / "saved"
    copy(store.layout.root, saved)
    points = 0
    for at in range(1, 10_000):
        shutil.rmtree(store.layout.root)
        copy(saved, store.layout.root)
        dying[0] = at
        try:
            store = open_store()
        except Killed:
            points += 1
        dying[0] = 1 << 60
        store = open_store()
        assert [n for n in models if not is_whole(store, manifests[n], models[n])] == [], f"killed at change {at}"
        assert not list(store.layout.trash.iterdir()) and not list(store.layout.ingest.iterdir())
        assert open_store().recovered.changed == {}, f"killed at change {at}"
        if points < at:
            break
    assert points > 30
    assert reconcile.PARKED_SECONDS > 0


def copy(source: Path, target: Path) -> None:
    """Hard links stay hard links."""
    assert os.system(f"cp -a {source} {target}") == 0
