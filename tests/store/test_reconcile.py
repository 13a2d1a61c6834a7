"""What a start makes of the disk and the index: the disk is right, the index follows, a second start finds nothing."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import xxhash

from cached.errors import StoreDegraded
from cached.model import PIECE_BYTES, Digest, Manifest
from cached.store import opening, recheck, reconcile, strays
from cached.store.store import Store

from .stored import add, files, key

OpenStore = Callable[[], Store]
W = Digest.of(b"weights")
MODEL = {"config.json": b"{}", "deep/er/w": b"weights"}
LARGE = os.urandom(PIECE_BYTES + 1000)


def sql(store: Store, statement: str, *parameters: object) -> None:
    """Behind the store's back, as damage would come."""
    with sqlite3.connect(store.layout.index) as db:
        db.execute(statement, parameters)


def rows(store: Store) -> dict[str, list[tuple[object, ...]]]:
    tables = ("blob", "snapshot", "snapshot_blob", "resolution", "identity", "pin", "fill", "reservation", "event")
    return {table: [tuple(row) for row in store.index.query(f"SELECT * FROM {table}")] for table in tables}


def tree(store: Store) -> dict[str, tuple[int, int]]:
    found = {}
    for path in store.layout.root.rglob("*"):
        if not path.name.startswith("index.db"):
            status = path.lstat()
            found[str(path.relative_to(store.layout.root))] = (status.st_ino, status.st_mode)
    return found


def name_in(store: Store, manifest: Manifest, path: str) -> Path:
    """A name in a snapshot's directory, in a folder that may be written to."""
    name = store.snapshots.path(manifest.digest) / path
    for folder in (name.parent, *name.parent.parents):
        if folder == store.layout.snapshots:
            break
        folder.chmod(0o755)
    return name


def close_folders(store: Store, manifest: Manifest) -> None:
    """As they were before a test opened them, so that nothing is seen by their modes."""
    place = store.snapshots.path(manifest.digest)
    for folder in (place, *place.rglob("*")):
        if folder.is_dir() and not folder.is_symlink():
            folder.chmod(0o555)


def is_whole(store: Store, manifest: Manifest, content: dict[str, bytes]) -> bool:
    """What its callers are promised: it is handed out, and every name has the right bytes and shares its blob."""
    place = store.snapshots.path(manifest.digest)
    found = {str(p.relative_to(place)): p for p in place.rglob("*") if not p.is_dir() or p.is_symlink()}
    return (
        bool(store.index.query("SELECT 1 FROM snapshot WHERE digest = ? AND state = 'ready'", (manifest.digest.hex,)))
        and {name: path.read_bytes() for name, path in found.items()} == content
        and all(found[f.path].lstat().st_ino == store.blobs.path(f.digest).stat().st_ino for f in manifest.files)
        and all(stat.S_IMODE(path.stat().st_mode) == 0o444 for path in found.values())
        and all(stat.S_IMODE(folder.stat().st_mode) == 0o555 for folder in (place, *(p.parent for p in found.values())))
    )


def state(store: Store, manifest: Manifest) -> str | None:
    found = store.index.query("SELECT state FROM snapshot WHERE digest = ?", (manifest.digest.hex,))
    return found[0]["state"] if found else None


# What a person, a program or a failing disk does to a root while no daemon runs. Each leaves every byte somewhere.
def lose_blob(store: Store, manifest: Manifest) -> None:
    store.blobs.path(W).unlink()


def link_blob_elsewhere(store: Store, manifest: Manifest) -> None:
    store.blobs.path(W).unlink()
    store.blobs.path(W).symlink_to("/etc/passwd")


def make_blob_a_directory(store: Store, manifest: Manifest) -> None:
    store.blobs.path(W).unlink()
    store.blobs.path(W).mkdir()


def replace_blob_by_a_shorter_one(store: Store, manifest: Manifest) -> None:
    store.blobs.path(W).unlink()
    store.blobs.path(W).write_bytes(b"short")


def replace_blob_by_another(store: Store, manifest: Manifest) -> None:
    store.blobs.path(W).unlink()
    store.blobs.path(W).write_bytes(b"wEights")


def lose_name(store: Store, manifest: Manifest) -> None:
    name_in(store, manifest, "deep/er/w").unlink()


def lose_folder(store: Store, manifest: Manifest) -> None:
    shutil.rmtree(name_in(store, manifest, "deep"))


def lose_directory(store: Store, manifest: Manifest) -> None:
    shutil.rmtree(name_in(store, manifest, "deep").parent)


def replace_directory_by_a_file(store: Store, manifest: Manifest) -> None:
    lose_directory(store, manifest)
    store.snapshots.path(manifest.digest).write_bytes(b"?")


def replace_name_by_other_bytes(store: Store, manifest: Manifest) -> None:
    name = name_in(store, manifest, "deep/er/w")
    name.unlink()
    name.write_bytes(b"wEights")


def replace_name_by_a_copy(store: Store, manifest: Manifest) -> None:
    name = name_in(store, manifest, "deep/er/w")
    name.unlink()
    name.write_bytes(b"weights")


def replace_name_by_a_link(store: Store, manifest: Manifest) -> None:
    name = name_in(store, manifest, "deep/er/w")
    name.unlink()
    name.symlink_to(store.blobs.path(W))


def replace_name_by_a_directory(store: Store, manifest: Manifest) -> None:
    name = name_in(store, manifest, "deep/er/w")
    name.unlink()
    name.mkdir()
    (name / "x").write_bytes(b"x")


def replace_folder_by_a_file(store: Store, manifest: Manifest) -> None:
    folder = name_in(store, manifest, "deep/er")
    shutil.rmtree(folder)
    folder.write_bytes(b"x")


def add_a_foreign_name(store: Store, manifest: Manifest) -> None:
    name_in(store, manifest, "deep/model.safetensors").write_bytes(b"for loaders to find")


def add_a_foreign_folder(store: Store, manifest: Manifest) -> None:
    name_in(store, manifest, "__pycache__").mkdir()


def open_folders_up(store: Store, manifest: Manifest) -> None:
    name_in(store, manifest, "deep/er/w").parent.chmod(0o777)


def close_blob(store: Store, manifest: Manifest) -> None:
    store.blobs.path(W).chmod(0o600)


def garble_manifest(store: Store, manifest: Manifest) -> None:
    store.snapshots.lock(manifest.digest).chmod(0o644)
    store.snapshots.lock(manifest.digest).write_bytes(b'{"files": [')


def lose_manifest(store: Store, manifest: Manifest) -> None:
    store.snapshots.lock(manifest.digest).unlink()


def make_manifest_a_directory(store: Store, manifest: Manifest) -> None:
    lose_manifest(store, manifest)
    store.snapshots.lock(manifest.digest).mkdir()


def touch_blob(store: Store, manifest: Manifest) -> None:
    os.utime(store.blobs.path(W))


def lose_index(store: Store, manifest: Manifest) -> None:
    for suffix in ("", "-wal", "-shm"):
        store.layout.index.with_name(f"index.db{suffix}").unlink(missing_ok=True)


def lose_index_but_not_its_log(store: Store, manifest: Manifest) -> None:
    lose_index(store, manifest)
    store.layout.index.with_name("index.db-wal").write_bytes(b"\x37\x7f\x06\x82" + bytes(4096))


def link_index_elsewhere(store: Store, manifest: Manifest) -> None:
    lose_index(store, manifest)
    store.layout.index.symlink_to("/etc/passwd")


def make_index_a_directory(store: Store, manifest: Manifest) -> None:
    lose_index(store, manifest)
    store.layout.index.mkdir()


def empty_index(store: Store, manifest: Manifest) -> None:
    lose_index(store, manifest)
    store.layout.index.touch()


def garble_index(store: Store, manifest: Manifest) -> None:
    lose_index(store, manifest)
    store.layout.index.write_bytes(b"not a database" * 1000)


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


def lose_both(store: Store, manifest: Manifest) -> None:
    lose_blob(store, manifest)
    lose_name(store, manifest)


def write_to_blob(store: Store, manifest: Manifest) -> None:
    store.blobs.path(W).chmod(0o644)
    store.blobs.path(W).write_bytes(b"wEights")


def truncate_blob(store: Store, manifest: Manifest) -> None:
    store.blobs.path(W).chmod(0o644)
    os.truncate(store.blobs.path(W), 3)


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
    "INSERT INTO snapshot SELECT printf('%064d', 1), state, ref, source, revision, size, files, 0, 0 FROM snapshot "
    "LIMIT 1",
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


def test_a_database_whose_tables_contradict_each_other_is_rebuilt(open_store: OpenStore) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    store.close()
    sql(store, "UPDATE snapshot_blob SET blob = replace(blob, 'a', 'b')")
    store = open_store()
    assert store.recovered.index.startswith("rebuilt: damaged (a row of snapshot_blob names")
    assert is_whole(store, manifest, MODEL)
    assert {path.name[:9] for path in store.quarantined()} == {"index.db."}


def test_text_that_is_none_is_damage(open_store: OpenStore) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    store.close()
    sql(store, "UPDATE identity SET identity = CAST(x'ff' || identity AS TEXT)")
    store = open_store()
    assert store.recovered.index == "rebuilt: damaged (identity holds text that is none)"
    assert is_whole(store, manifest, MODEL)


def test_tables_that_are_not_ours_are_damage(open_store: OpenStore) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    store.close()
    sql(store, "ALTER TABLE snapshot RENAME COLUMN used_at TO ured_at")
    store = open_store()
    assert store.recovered.index.startswith("rebuilt: damaged")
    assert is_whole(store, manifest, MODEL)


def test_a_migration_that_nobody_wrote_is_damage_and_not_a_newer_version(open_store: OpenStore) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    store.close()
    sql(store, "UPDATE _sqlite_migrations SET name = 'sekond' WHERE name = 'second'")
    store = open_store()
    assert store.recovered.index.startswith("rebuilt: damaged")
    assert is_whole(store, manifest, MODEL)


@pytest.mark.parametrize("damage", ["UPDATE snapshot_blob SET blob = replace(blob, 'a', 'b')", "DROP TABLE event"])
def test_pins_and_sealed_rows_are_taken_over_from_a_damaged_index(damage: str, open_store: OpenStore) -> None:
    store = open_store()
    manifest, other = add(store, "m", MODEL), add(store, "other", {"config.json": b"other"})
    store.index.pin(manifest.digest, None, 7)
    store.index.pin(other.digest, 4e9, 0)
    store.index.resolved(key("alias"), "s3://bucket/alias", "v", manifest.digest)
    before = rows(store)
    store.close()
    sql(store, "UPDATE identity SET identity = replace(identity, 'v1', 'v2') WHERE identity LIKE '%other%'")
    sql(store, damage)
    store = open_store()
    assert store.recovered.index.startswith("rebuilt: damaged") and store.recovered.pins_inherited == 2
    after = rows(store)
    assert [row[:3] for row in after["pin"]] == [row[:3] for row in before["pin"]]
    assert set(after["identity"]) == {row for row in before["identity"] if "other" not in str(row[0])}
    assert {row[:4] for row in after["resolution"]} == {row[:4] for row in before["resolution"]}
    known = store.index.find(key("alias"))
    assert known is not None and known.checked_at == 0
    assert open_store().recovered.changed == {}


def test_a_full_disk_is_no_damage_of_the_index(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store()
    add(store, "m", MODEL)
    store.close()

    def full(path: Path) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setattr(opening, "Index", full)
    with pytest.raises(StoreDegraded, match=r"cannot be opened.*restart"):
        open_store()
    assert store.layout.index.exists() and not list(store.layout.quarantine.iterdir())


@pytest.mark.parametrize(("harm", "said"), [(lose_index, "rebuilt: lost"), (empty_index, "rebuilt: lost")])
def test_what_became_of_the_index_is_said(
    harm: Callable[[Store, Manifest], None], said: str, open_store: OpenStore
) -> None:
    store = open_store()
    assert store.recovered.index == "new"
    manifest = add(store, "m", MODEL)
    assert open_store().recovered.index == "kept"
    store.close()
    harm(store, manifest)
    store = open_store()
    assert store.recovered.as_dict()["index"] == said
    assert store.recovered.snapshots_restored == 1


def test_a_ref_means_what_was_fetched_last_when_the_index_is_lost(open_store: OpenStore) -> None:
    store = open_store()
    found = [add(store, "m", {"config.json": b"%d" % number}) for number in range(6)]
    for number, manifest in enumerate(found):
        os.utime(store.snapshots.lock(manifest.digest), (1000 + number, 1000 + number))
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
    monkeypatch.setattr(recheck, "check", lambda *given, **more: pytest.fail("a blob was read"))
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
    (aside,) = store.quarantined()
    assert aside.name[:64] == Digest.of(LARGE).hex
    assert aside.with_name(f"{aside.name}.pieces").read_text().startswith("1 "), "the second piece is good"


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
    assert len(store.quarantined()) == (not good)


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


def test_a_manifest_is_written_again_into_the_file_that_its_holder_has_locked(open_store: OpenStore) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    fd = os.open(store.snapshots.lock(manifest.digest), os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    garble_manifest(store, manifest)
    store = open_store()
    assert is_whole(store, manifest, MODEL)
    assert os.fstat(fd).st_ino == store.snapshots.lock(manifest.digest).stat().st_ino
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
    store.snapshots.lock(digest).write_text(json.dumps(value))
    store = open_store()
    assert not store.snapshots.lock(digest).exists() and not store.snapshots.path(digest).exists()
    assert not (store.layout.root / "escaped").exists() and not (store.layout.snapshots / "escaped").exists()


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"{}", b'{"files": [3]}', b"[" * 100_000, b"\xff", b'"x"'])
def test_a_manifest_that_is_none_is_written_again_whatever_it_says(text: bytes, open_store: OpenStore) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    store.snapshots.lock(manifest.digest).chmod(0o644)
    store.snapshots.lock(manifest.digest).write_bytes(text)
    assert is_whole(open_store(), manifest, MODEL)


def test_holders_keep_their_files_while_a_directory_is_mended(open_store: OpenStore) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    fd = os.open(store.snapshots.lock(manifest.digest), os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    config = store.snapshots.path(manifest.digest) / "config.json"
    before = config.stat().st_ino, store.snapshots.path(manifest.digest).stat().st_ino
    lose_name(store, manifest)
    store = open_store()
    assert (config.stat().st_ino, store.snapshots.path(manifest.digest).stat().st_ino) == before
    assert is_whole(store, manifest, MODEL)
    assert os.fstat(fd).st_nlink == 1
    os.close(fd)


def test_a_removal_that_a_crash_interrupted_after_its_row_was_dropped_is_finished(open_store: OpenStore) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    store.index.forget(manifest.digest, "evicted", "test")
    lose_directory(store, manifest)
    store = open_store()
    assert files(store) == [] and store.usage().used == 0


def park(store: Store, key: str, size: int) -> None:
    """A download that broke off."""
    assert store.index.begin("s3://b/x", {key: size}, [], 1 << 40) is not None
    with (store.layout.ingest / f"{key}.part").open("wb") as part:
        part.truncate(size)


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
    assert [row[:4] for row in rows(store)["resolution"]] == [row[:4] for row in before["resolution"]]
    assert open_store().recovered.changed == {}


# Times.


def test_no_time_is_later_than_now_after_a_start(open_store: OpenStore) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    store.index.pin(manifest.digest, None, 0)
    park(store, "a" * 64, PIECE_BYTES + 5)
    later = time.time() + 1e6
    columns = {"snapshot": ("used_at", "created_at"), "blob": ("created_at", "checked_at", "hashed_at")}
    columns |= {"reservation": ("created_at",), "resolution": ("checked_at",), "event": ("at",), "pin": ("created_at",)}
    for table, names in columns.items():
        sql(store, f"UPDATE {table} SET " + ", ".join(f"{name} = {later}" for name in names))
    sql(store, "UPDATE pin SET until = 1e300")
    store = open_store()
    assert store.recovered.times_corrected > 0
    for table, names in columns.items():
        found = [row[name] for row in store.index.query(f"SELECT * FROM {table}") for name in names]
        assert found and max(found) <= time.time(), table
    assert store.index.query("SELECT checked_at FROM resolution")[0]["checked_at"] == 0
    assert store.index.query("SELECT until FROM pin")[0]["until"] is None
    assert open_store().recovered.changed == {}


def test_a_use_is_never_remembered_as_later_than_now(open_store: OpenStore) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    store.index.touch({manifest.digest: time.time() + 1e6})
    assert store.index.query("SELECT used_at FROM snapshot")[0]["used_at"] <= time.time()


def test_descriptions_of_leases_end_with_their_process(open_store: OpenStore) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    gone = int(Path("/proc/sys/kernel/pid_max").read_text())
    leases = [(manifest.digest, os.getpid(), 0, "me", time.time()), (manifest.digest, gone, 0, "gone", time.time())]
    store.index.touch({}, leases)
    assert [row["pid"] for row in open_store().index.query("SELECT pid FROM lease")] == [os.getpid()]
    sql(store, "UPDATE lease SET since = 1")
    assert open_store().index.query("SELECT pid FROM lease") == [], "of an earlier boot"


# Strays.

STRAYS = [
    "blobs/stray",
    "blobs/zz",
    "blobs/ab/stray",
    "blobs/ab/" + "cd" * 32,
    "blobs/ab/" + "ab" * 31 + "a",
    "blobs/ab/" + "AB" * 32,
    "blobs/ab/" + "ab" * 32,
    "blobs/ab/" + "ab" * 32 + ".pieces",
    "snapshots/stray",
    "snapshots/stray.json",
    "snapshots/" + "ab" * 32,
    "snapshots/" + "ab" * 32 + ".json",
    "ingest/stray",
    "ingest/" + "ab" * 32 + ".part",
    "ingest/" + "ab" * 32 + ".pieces",
    "trash/stray",
    "FORMAT.12345",
    os.fsdecode(b"blobs/\xff\xfe"),
]


@pytest.mark.parametrize("kind", ["file", "directory", "link", "fifo"])
@pytest.mark.parametrize("name", STRAYS, ids=lambda name: os.fsencode(name).decode(errors="replace")[:20])
def test_what_nobody_put_there_is_gone_after_a_start(name: str, kind: str, open_store: OpenStore) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    before = files(store)
    path = store.layout.root / name
    make_stray(path, kind)
    store = open_store()
    assert not os.path.lexists(path)
    assert Path("/etc/passwd").exists()
    assert is_whole(store, manifest, MODEL) and files(store) == before
    assert open_store().recovered.changed == {}


def make_stray(path: Path, kind: str) -> None:
    if kind == "file":
        path.write_bytes(b"stray")
    elif kind == "directory":
        (path / "deep").mkdir(parents=True)
        (path / "deep/file").write_bytes(b"stray")
        (path / "link").symlink_to("/etc")
        (path / "deep").chmod(0o000)
        path.chmod(0o555)
    elif kind == "link":
        path.symlink_to("/etc/passwd")
    else:
        os.mkfifo(path)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_folder_of_blobs_that_is_none_is_put_aside_and_made_again(kind: str, open_store: OpenStore) -> None:
    store = open_store()
    store.close()
    folder = store.layout.blobs / W.hex[:2]
    folder.rmdir()
    make_stray(folder, kind)
    store = open_store()
    assert is_whole(store, add(store, "m", MODEL), MODEL)
    assert [path.name[:2] for path in store.quarantined()] == [W.hex[:2]]


def test_what_lies_in_quarantine_and_beside_our_folders_is_the_operators(
    open_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store()
    theirs = [store.layout.root / "notes.txt", store.layout.quarantine / "stray"]
    for path in theirs:
        path.write_bytes(b"mine")
    caplog.set_level(logging.WARNING)
    store = open_store()
    assert all(path.exists() for path in theirs)
    assert [vars(line)["stray"] for line in caplog.records if line.message == "store.stray"] == ["notes.txt"]
    assert store.recovered.strays_left == 1


def test_strays_are_logged_by_name_and_not_without_end(open_store: OpenStore, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store()
    for number in range(strays.LOGGED + 30):
        (store.layout.snapshots / f"stray {number:02}").touch()
    caplog.set_level(logging.WARNING)
    store = open_store()
    said = [vars(line)["stray"] for line in caplog.records if line.message == "store.stray"]
    assert len(said) == strays.LOGGED + 1 and said[0].startswith("snapshots/stray ")
    assert store.recovered.strays_removed == strays.LOGGED + 30


def test_what_cannot_be_removed_keeps_nobody_from_starting(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    (store.layout.snapshots / "immovable").touch()
    rename = os.rename

    def refuse(source: str | Path, target: str | Path) -> None:
        if "immovable" in str(source):
            raise PermissionError(1, "Operation not permitted")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    store = open_store()
    assert is_whole(store, manifest, MODEL)
    assert store.recovered.strays_left == 1


# Death on the way.


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
