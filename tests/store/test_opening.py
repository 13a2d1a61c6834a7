"""Which indexes are believed at a start, what becomes of the others, and what is taken over from them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from cached.errors import StoreDegraded
from cached.model import Manifest
from cached.store.index import opening
from cached.store.store import Store

from .harm import MODEL, OpenStore, aside, empty_index, is_whole, lose_index, rows, sql
from .stored import OPEN, add, key


def test_a_database_whose_tables_contradict_each_other_is_rebuilt(open_store: OpenStore) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    store.close()
    sql(store, "UPDATE snapshot_blob SET blob = replace(blob, 'a', 'b')")
    store = open_store()
    assert store.recovered.index.startswith("rebuilt: damaged (a row of snapshot_blob names")
    assert is_whole(store, manifest, MODEL)
    assert {path.name[:9] for path in aside(store)} == {"index.db."}


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
    store.index.resolved({key("alias"): ("s3://bucket/alias", "v")}, manifest.digest, OPEN)
    before = rows(store)
    store.close()
    sql(store, "UPDATE identity SET identity = replace(identity, 'v1', 'v2') WHERE identity LIKE '%other%'")
    sql(store, damage)
    store = open_store()
    assert store.recovered.index.startswith("rebuilt: damaged") and store.recovered.pins_inherited == 2
    after = rows(store)
    assert [row[:3] for row in after["pin"]] == [row[:3] for row in before["pin"]]
    assert set(after["identity"]) == {row for row in before["identity"] if "other" not in str(row[0])}
    assert {row[:5] for row in after["resolution"]} == {row[:5] for row in before["resolution"]}
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
