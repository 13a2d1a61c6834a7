"""The index follows the disk: rows that say something else are corrected, or dropped where the disk cannot say."""

from __future__ import annotations

import os
import sqlite3

import pytest

from cached.model import Digest
from cached.store.startup import changed_blobs

from .harm import LARGE, MODEL, OpenStore, is_whole, lose_index, rows, sql
from .stored import add, key

# Bytes that were flipped inside index.db so that every page still reads well.
FLIPPED = [
    "UPDATE blob SET size = size + 8",
    "UPDATE blob SET pieces = NULL, mtime_ns = 5",
    "UPDATE blob SET pieces = zeroblob(16), mtime_ns = 5",
    "UPDATE blob SET damaged = 1",
    "UPDATE snapshot SET size = 0, files = 99",
    "UPDATE snapshot SET state = 'damaged'",
    "UPDATE snapshot SET ref = 'x', source = 'y', revision = 'z'",
    "DELETE FROM snapshot_blob",
    "DELETE FROM snapshot",
    "DELETE FROM resolution",
    "DELETE FROM snapshot_blob; DELETE FROM identity; DELETE FROM blob",
    "INSERT OR IGNORE INTO snapshot_blob SELECT snapshot.digest, blob.digest FROM snapshot, blob",
    "INSERT INTO blob (digest, size, created_at) VALUES (printf('%064d', 0), 5, 0); "
    "INSERT INTO snapshot SELECT printf('%064d', 1), state, ref, source, revision, size, files, 0, 0, access, NULL "
    "FROM snapshot LIMIT 1",
]


@pytest.mark.parametrize("statements", FLIPPED)
def test_rows_that_differ_from_the_disk_are_corrected_from_it(statements: str, open_store: OpenStore) -> None:
    store = open_store()
    manifest, other = add(store, "m", MODEL), add(store, "other", {"config.json": b"other"})
    before = rows(store)
    store.close()
    with sqlite3.connect(store.layout.index) as db:
        db.executescript(f"PRAGMA foreign_keys=ON; {statements}")
    store = open_store()
    assert store.recovered.index == "kept"
    assert is_whole(store, manifest, MODEL) and is_whole(store, other, {"config.json": b"other"})
    known = store.index.find(key("m"))
    assert known is not None and known.snapshot == manifest.digest
    assert store.usage().used == len(b"{}weightsother")
    after = rows(store)
    assert [row[:7] for row in after["snapshot"]] == [row[:7] for row in before["snapshot"]]
    assert after["snapshot_blob"] == before["snapshot_blob"]
    assert [row[:2] for row in after["blob"]] == [row[:2] for row in before["blob"]]
    assert open_store().recovered.changed == {}


def test_a_ref_means_what_was_fetched_last_when_the_index_is_lost(open_store: OpenStore) -> None:
    store = open_store()
    found = [add(store, "m", {"config.json": b"%d" % number}) for number in range(6)]
    for number, manifest in enumerate(found):
        os.utime(store.snapshots.manifest(manifest.digest), (1000 + number, 1000 + number))
    store.close()
    lose_index(store, found[0])
    known = open_store().index.find(key("m"))
    assert known is not None and known.snapshot == found[-1].digest
    assert known.checked_at == 0, "a moving name must be asked again before it is believed"


def test_a_lost_index_is_rebuilt_without_reading_contents(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    manifest = add(store, "m", {"config.json": b"{}", "w": LARGE})
    pieces = store.index.query("SELECT pieces FROM blob WHERE size > 10")[0]["pieces"]
    store.close()
    lose_index(store, manifest)
    monkeypatch.setattr(changed_blobs, "check", lambda *given, **more: pytest.fail("a blob was read"))
    store = open_store()
    assert is_whole(store, manifest, {"config.json": b"{}", "w": LARGE})
    for row in store.index.query("SELECT * FROM blob"):
        status = store.blobs.path(Digest(row["digest"])).stat()
        assert (row["size"], row["mtime_ns"]) == (status.st_size, status.st_mtime_ns)
        assert row["pieces"] == (pieces if row["size"] > 10 else None), "a sidecar says the pieces of a large one"
        assert row["checked_at"] == row["hashed_at"] == 0, "the scrub is to look at it"


def test_a_sidecar_of_other_bytes_is_not_believed(open_store: OpenStore) -> None:
    store = open_store()
    manifest = add(store, "m", {"w": LARGE})
    store.close()
    os.utime(store.blobs.path(Digest.of(LARGE)))
    lose_index(store, manifest)
    store = open_store()
    assert store.index.query("SELECT pieces FROM blob")[0]["pieces"] is None
    assert is_whole(store, manifest, {"w": LARGE})


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE identity SET identity = replace(identity, 'v1', 'v3') WHERE identity LIKE '%config%'",
        "UPDATE identity SET blob = (SELECT max(blob) FROM identity)",
        "UPDATE resolution SET ref = replace(ref, 'bucket/z', 'bucket/y')",
        "UPDATE resolution SET revision = 'sevision'",
        "UPDATE resolution SET snapshot = (SELECT max(snapshot) FROM resolution)",
    ],
)
def test_a_row_that_nothing_else_could_correct_is_dropped_when_it_is_not_what_was_written(
    statement: str, open_store: OpenStore
) -> None:
    store = open_store()
    add(store, "m", MODEL)
    add(store, "z", {"config.json": b"other"})
    before = rows(store)
    store.close()
    sql(store, statement)
    store = open_store()
    assert store.recovered.index == "kept" and store.recovered.rows_dropped >= 1
    assert set(rows(store)["identity"]) < set(before["identity"]) or "resolution" in statement
    assert [row[:5] for row in rows(store)["resolution"]] == [row[:5] for row in before["resolution"]]
    assert open_store().recovered.changed == {}
