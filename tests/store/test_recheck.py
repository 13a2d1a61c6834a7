"""Blobs that were written to while nobody watched."""

from __future__ import annotations

import os

import pytest
import xxhash

from cached.model import Digest

from .harm import LARGE, MODEL, OpenStore, W, aside, is_whole, rows, sql, state, write_to_blob
from .stored import add, key


def test_a_row_that_does_not_know_its_files_time_takes_it_and_its_pieces(open_store: OpenStore) -> None:
    store = open_store()
    add(store, "m", {"w": LARGE})
    before = rows(store)["blob"]
    sql(store, "UPDATE blob SET mtime_ns = NULL, pieces = NULL")
    assert rows(open_store())["blob"] == before


def test_a_blob_that_was_only_touched_is_read_once_and_stays(open_store: OpenStore) -> None:
    store = open_store()
    manifest = add(store, "m", {"w": LARGE})
    os.utime(store.blobs.path(Digest.of(LARGE)))
    store = open_store()
    assert (store.recovered.blobs_checked, store.recovered.blobs_damaged) == (1, 0)
    assert is_whole(store, manifest, {"w": LARGE})
    assert open_store().recovered.blobs_checked == 0


def test_a_blob_that_was_written_to_while_nobody_watched_is_put_aside_with_its_good_pieces(
    open_store: OpenStore,
) -> None:
    store = open_store()
    manifest = add(store, "m", {"config.json": b"{}", "w": LARGE})
    path = store.blobs.path(Digest.of(LARGE))
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(bytes(100))
    store = open_store()
    assert state(store, manifest) == "damaged" and store.index.find(key("m")) is None
    assert store.recovered.blobs_damaged == 1
    (kept,) = aside(store)
    assert kept.name[:64] == Digest.of(LARGE).hex
    assert kept.with_name(f"{kept.name}.pieces").read_text().startswith("1 "), "the second piece is good"


@pytest.mark.parametrize("good", [True, False])
def test_a_condemned_blob_that_lies_there_is_believed_only_by_its_sha256(good: bool, open_store: OpenStore) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    store.close()
    if not good:
        status = store.blobs.path(W).stat()
        write_to_blob(store, manifest)
        os.utime(store.blobs.path(W), ns=(status.st_atime_ns, status.st_mtime_ns))
        # Those of the wrong bytes: they came so, and it was the sha256 that a scrub found to be another.
        sql(store, "UPDATE blob SET pieces = ? WHERE digest = ?", xxhash.xxh3_128_digest(b"wEights"), W.hex)
    store = open_store()
    store.index.condemn(W, "a check failed")  # And the daemon was killed before it was put aside.
    store = open_store()
    assert is_whole(store, manifest, MODEL) == good
    assert (store.blobs.size(W) is not None) == good
    assert len(aside(store)) == (not good)
