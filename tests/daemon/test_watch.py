"""What the watch sees of changes behind the store's back, and what of the store's own work it leaves alone."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from watchdog.observers.inotify_c import InotifyEvent, InotifyFD

from cached.config import Config, Size
from cached.daemon.integrity.watch import Watch
from cached.model import Digest, Manifest
from cached.store.store import Store
from tests.store.stored import add
from tests.waiting import until

MODEL = {"config.json": b"{}", "deep/er/w": b"weights"}
W = Digest.of(b"weights")


class Suspects:
    """What was told, in order; a change of our own at the end says that everything before has been told."""

    def __init__(self) -> None:
        self.told: list[Digest] = []
        self._arrived = threading.Event()

    def __call__(self, digest: Digest, name: str, what: str) -> None:
        self.told.append(digest)
        self._arrived.set()

    def after(self, deadline: float = 10.0) -> set[Digest]:
        """Once something is told, or the deadline has passed."""
        self._arrived.wait(deadline)
        return set(self.told)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(Config(root=tmp_path / "root", keep_free=Size(0)))
    yield store
    store.close()


@pytest.fixture
def suspects() -> Suspects:
    return Suspects()


@pytest.fixture
def watching(store: Store, suspects: Suspects) -> Iterator[Callable[[], Watch]]:
    watches = []

    def watch() -> Watch:
        watches.append(Watch(store.layout, suspects))
        assert watches[-1].start()
        return watches[-1]

    yield watch
    for each in watches:
        each.close()


def opened(store: Store, manifest: Manifest) -> Path:
    """Its directory, for the test to change."""
    place = store.snapshots.path(manifest.digest)
    for folder in (place, place / "deep", place / "deep/er"):
        folder.chmod(0o755)
    (place / "deep/er/w").chmod(0o644)
    return place


def write(place: Path) -> None:
    (place / "deep/er/w").write_bytes(b"wEights")


def truncate(place: Path) -> None:
    os.truncate(place / "deep/er/w", 3)


def remove(place: Path) -> None:
    (place / "deep/er/w").unlink()


def move_away(place: Path) -> None:
    (place / "deep/er/w").rename(place.parent.parent / "elsewhere")


def replace(place: Path) -> None:
    (place.parent.parent / "other").write_bytes(b"wEights")
    (place.parent.parent / "other").rename(place / "deep/er/w")


def remove_folder(place: Path) -> None:
    shutil.rmtree(place / "deep/er")


def move_directory_away(place: Path) -> None:
    place.rename(place.parent.parent / "elsewhere")


def remove_manifest(place: Path) -> None:
    place.with_name(f"{place.name}.json").unlink()


CHANGES = [write, truncate, remove, move_away, replace, remove_folder, move_directory_away, remove_manifest]


@pytest.mark.parametrize("published_first", [True, False], ids=["published before", "published since"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_under_a_snapshot_is_told_with_its_digest(
    change: Callable[[Path], None],
    published_first: bool,
    store: Store,
    suspects: Suspects,
    watching: Callable[[], Watch],
) -> None:
    if published_first:
        manifest = add(store, "m", MODEL)
        watching()
    else:
        watch = watching()
        manifest = add(store, "m", MODEL)
        until(lambda: watched(watch).count(manifest.digest.hex) == 3)
    place = opened(store, manifest)
    assert suspects.told == []
    change(place)
    assert suspects.after() == {manifest.digest}


@pytest.mark.parametrize("change", [os.unlink, lambda path: os.truncate(path, 3), lambda path: path.write_bytes(b"?")])
def test_a_change_of_a_blob_is_told_with_its_digest(
    change: Callable[[Path], None], store: Store, suspects: Suspects, watching: Callable[[], Watch]
) -> None:
    add(store, "m", MODEL)
    store.blobs.path(W).chmod(0o644)
    watching()
    change(store.blobs.path(W))
    assert suspects.after() == {W}


def test_publishing_wakes_nobody_but_for_each_new_snapshot(
    store: Store, suspects: Suspects, watching: Callable[[], Watch], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[InotifyEvent] = []
    hear = InotifyFD.handle_event
    monkeypatch.setattr(InotifyFD, "handle_event", lambda self, event: (seen.append(event), hear(self, event)))
    watch = watching()
    manifest = add(store, "m", {f"{number}": b"%d" % number for number in range(30)})
    until(lambda: manifest.digest.hex in watched(watch))
    assert len(seen) == 2, "its directory and its manifest"
    assert suspects.told == []


def test_lock_files_that_come_and_go_wake_nobody(
    store: Store, suspects: Suspects, watching: Callable[[], Watch]
) -> None:
    manifest = add(store, "m", MODEL)
    store.leases.make(manifest.digest, 4001)
    watch = watching()
    store.leases.make(manifest.digest, 4002)
    store.leases.drop(manifest.digest, 4001)
    write(opened(store, manifest))
    assert suspects.after() == {manifest.digest}
    assert not [path for path, _ in watch._watched.values() if ".locks" in path]


def test_mending_a_name_is_no_change_and_an_eviction_is_told_once_and_forgotten(
    store: Store, suspects: Suspects, watching: Callable[[], Watch]
) -> None:
    manifest, other = add(store, "m", MODEL), add(store, "other", {"config.json": b"other"})
    place = opened(store, manifest)
    (place / "deep/er/w").unlink()
    watch = watching()
    store.snapshots.mend(manifest)
    store.evict(other.digest, "test")
    assert manifest.digest not in suspects.after()
    until(lambda: other.digest.hex not in watched(watch))
    write(opened(store, manifest))
    until(lambda: manifest.digest in suspects.told)


def test_a_kernel_without_watches_left_is_said_and_the_others_work(
    store: Store, suspects: Suspects, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    manifests = [add(store, f"m{number}", {"w": b"%d" % number}) for number in range(5)]
    left, add_watch = [256 + 1 + 3], InotifyFD.add_callback

    def limited(self: InotifyFD, *given: Any) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "inotify watch limit reached")
        return add_watch(self, *given)

    monkeypatch.setattr(InotifyFD, "add_callback", limited)
    watch = Watch(store.layout, suspects)
    assert not watch.start()
    assert [line.message for line in caplog.records if line.message.startswith("watch.")] == ["watch.short"]
    for manifest in manifests:
        name = store.snapshots.path(manifest.digest) / "w"
        name.chmod(0o644)
        name.write_bytes(b"?")
    until(lambda: len(set(suspects.told)) == 3)
    watch.close()


def test_a_watch_that_ends_leaves_no_thread_and_no_descriptor(store: Store, watching: Callable[[], Watch]) -> None:
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    watch = watching()
    watch.close()
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


def watched(watch: Watch) -> list[str]:
    """Whose the watches are."""
    return [whose for _, whose in list(watch._watched.values())]
