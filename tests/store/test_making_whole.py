"""What can be made whole without the network is; the rest waits for its source, in its place."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable

import pytest

from cached.model import Digest, Manifest
from cached.store.store import Store

from .harm import (
    MODEL,
    OpenStore,
    W,
    add_a_foreign_folder,
    add_a_foreign_name,
    close_blob,
    close_folders,
    empty_index,
    garble_index,
    garble_manifest,
    is_whole,
    link_blob_elsewhere,
    link_index_elsewhere,
    lose_blob,
    lose_both,
    lose_directory,
    lose_folder,
    lose_index,
    lose_index_but_not_its_log,
    lose_manifest,
    lose_name,
    make_blob_a_directory,
    make_index_a_directory,
    make_manifest_a_directory,
    name_in,
    open_folders_up,
    replace_blob_by_a_shorter_one,
    replace_blob_by_another,
    replace_directory_by_a_file,
    replace_folder_by_a_file,
    replace_name_by_a_copy,
    replace_name_by_a_directory,
    replace_name_by_a_link,
    replace_name_by_other_bytes,
    rows,
    state,
    touch_blob,
    tree,
    truncate_blob,
    write_to_blob,
)
from .stored import add, key, lock_file

HARMLESS = [
    lose_blob,
    link_blob_elsewhere,
    make_blob_a_directory,
    replace_blob_by_a_shorter_one,
    replace_blob_by_another,
    lose_name,
    lose_folder,
    lose_directory,
    replace_directory_by_a_file,
    replace_name_by_other_bytes,
    replace_name_by_a_copy,
    replace_name_by_a_link,
    replace_name_by_a_directory,
    replace_folder_by_a_file,
    add_a_foreign_name,
    add_a_foreign_folder,
    open_folders_up,
    close_blob,
    garble_manifest,
    lose_manifest,
    make_manifest_a_directory,
    touch_blob,
    lose_index,
    lose_index_but_not_its_log,
    link_index_elsewhere,
    make_index_a_directory,
    empty_index,
    garble_index,
]


@pytest.mark.parametrize("harm", HARMLESS, ids=lambda harm: harm.__name__)
def test_what_can_be_made_whole_without_the_network_is_and_a_second_start_changes_nothing(
    harm: Callable[[Store, Manifest], None], open_store: OpenStore
) -> None:
    store = open_store()
    manifest, other = add(store, "m", MODEL), add(store, "other", {"config.json": b"other"})
    store.close()
    harm(store, manifest)
    if harm is not open_folders_up:
        close_folders(store, manifest)
    store = open_store()
    assert is_whole(store, manifest, MODEL)
    assert is_whole(store, other, {"config.json": b"other"})
    known = store.index.find(key("m"))
    assert known is not None and known.snapshot == manifest.digest
    assert store.usage().used == len(b"{}weightsother")
    assert not list(store.layout.trash.iterdir()) and not list(store.layout.ingest.iterdir())
    before = rows(store), tree(store)
    store = open_store()
    assert store.recovered.changed == {} and store.recovered.index == "kept"
    assert (rows(store), tree(store)) == before


def test_a_blob_is_found_again_among_the_names_of_another_snapshot(open_store: OpenStore) -> None:
    store = open_store()
    one, two = add(store, "one", MODEL), add(store, "two", {"config.json": b"2", "other/name": b"weights"})
    lose_blob(store, one)
    name_in(store, one, "deep/er/w").unlink()
    store = open_store()
    assert is_whole(store, one, MODEL)
    assert is_whole(store, two, {"config.json": b"2", "other/name": b"weights"})
    assert store.recovered.blobs_regained == 1


def test_other_bytes_of_the_same_size_are_not_taken_for_the_blob(open_store: OpenStore) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    lose_blob(store, manifest)
    replace_name_by_other_bytes(store, manifest)
    store = open_store()
    assert state(store, manifest) == "damaged" and store.index.find(key("m")) is None
    assert store.blobs.size(W) is None


@pytest.mark.parametrize("harm", [lose_both, write_to_blob, truncate_blob], ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("lost", [False, True], ids=["index kept", "index lost"])
def test_what_only_the_source_can_give_back_is_kept_as_damaged_until_a_fetch_mends_it_in_place(
    harm: Callable[[Store, Manifest], None], lost: bool, open_store: OpenStore
) -> None:
    store = open_store()
    manifest, sharing = add(store, "m", MODEL), add(store, "two", {"config.json": b"2", "w": b"weights"})
    store.close()
    harm(store, manifest)
    if harm is lose_both:
        name_in(store, sharing, "w").unlink()
    if lost:
        lose_index(store, manifest)
        if harm is write_to_blob:
            return  # Of the same size, and nothing knows when it was changed: the scrub's to find.
    store = open_store()
    assert state(store, manifest) == state(store, sharing) == "damaged"
    assert store.index.find(key("m")) is None
    assert store.wanted_back(W.hex) == W
    assert store.blobs.size(W) is None
    assert store.blobs.size(Digest.of(b"{}")) == 2, "what is there stays"
    assert store.usage().used == len(b"{}2")
    assert (store.recovered.damaged, store.recovered.snapshots) == (2, 2)
    before = rows(store), tree(store)
    store = open_store()
    assert store.recovered.changed == {} and store.recovered.damaged == 2
    assert (rows(store), tree(store)) == before
    inode = store.snapshots.path(manifest.digest).stat().st_ino
    add(store, "m", MODEL)
    assert is_whole(store, manifest, MODEL)
    assert store.snapshots.path(manifest.digest).stat().st_ino == inode, "in place, for holders"


def test_who_leases_a_snapshot_whose_manifest_is_written_again_goes_on_leasing_it(open_store: OpenStore) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    fd = os.open(lock_file(store, manifest), os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    garble_manifest(store, manifest)
    store = open_store()
    assert is_whole(store, manifest, MODEL)
    assert os.fstat(fd).st_nlink
    assert not store.evict(manifest.digest, "test"), "the lease still holds"
    os.close(fd)


def test_a_directory_that_does_not_prove_its_manifest_is_not_believed(open_store: OpenStore) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    name_in(store, manifest, "deep/er/w").rename(name_in(store, manifest, "deep/er/v"))
    lose_manifest(store, manifest)
    store = open_store()
    assert state(store, manifest) is None and list(store.layout.snapshots.iterdir()) == []


@pytest.mark.parametrize("path", ["../escaped", "/etc/escaped", "a/../../escaped"])
def test_a_manifest_that_names_what_lies_elsewhere_is_none_whatever_its_digest(
    path: str, open_store: OpenStore
) -> None:
    store = open_store()
    add(store, "m", MODEL)
    digest = Digest.of(f"{W} 7 {path}\n".encode())
    store.snapshots.path(digest).mkdir()
    files = [{"path": path, "size": 7, "digest": str(W)}]
    value = {"ref": key("x"), "source": "s3://bucket/x", "revision": "v", "files": files}
    store.snapshots.manifest(digest).write_text(json.dumps(value))
    store = open_store()
    assert not store.snapshots.manifest(digest).exists() and not store.snapshots.path(digest).exists()
    assert not (store.layout.root / "escaped").exists() and not (store.layout.snapshots / "escaped").exists()


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"{}", b'{"files": [3]}', b"[" * 100_000, b"\xff", b'"x"'])
def test_a_manifest_that_is_none_is_written_again_whatever_it_says(text: bytes, open_store: OpenStore) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    store.snapshots.manifest(manifest.digest).chmod(0o644)
    store.snapshots.manifest(manifest.digest).write_bytes(text)
    assert is_whole(open_store(), manifest, MODEL)


def test_holders_keep_their_files_while_a_directory_is_mended(open_store: OpenStore) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    fd = os.open(lock_file(store, manifest), os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    config = store.snapshots.path(manifest.digest) / "config.json"
    before = config.stat().st_ino, store.snapshots.path(manifest.digest).stat().st_ino
    lose_name(store, manifest)
    store = open_store()
    assert (config.stat().st_ino, store.snapshots.path(manifest.digest).stat().st_ino) == before
    assert is_whole(store, manifest, MODEL)
    assert os.fstat(fd).st_nlink == 1
    os.close(fd)
