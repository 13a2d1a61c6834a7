"""What the index of the former release said, and what is made of it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from cached.access import Access
from cached.store.index.row_seals import seal

from .former import in_the_tables_of
from .harm import MODEL, OpenStore
from .stored import add, key

PROBE = '["s3://bucket/m","config.json","v1",2]'


def as_it_was(db: sqlite3.Connection) -> None:
    """One model is open, of another the daemon's own credentials have read the smallest file."""
    own = f"own {PROBE}"
    db.execute("UPDATE resolution SET access = ? WHERE ref = ?", (own, key("closed")))
    db.execute(
        "UPDATE snapshot SET access = ? WHERE digest IN (SELECT snapshot FROM resolution WHERE access = ?)", (own, own)
    )
    db.execute("UPDATE resolution SET seal = seal(ref, source, revision, snapshot, access)")
    db.execute("INSERT INTO proof VALUES (?, 'own', 1e9)", (PROBE,))
    db.execute("INSERT INTO entrant SELECT digest, 7, 4e9 FROM snapshot WHERE access = ?", (own,))


def say_own(manifest: Path) -> None:
    said = {**json.loads(manifest.read_text()), "access": f"own {PROBE}"}
    manifest.chmod(0o600)
    manifest.write_text(json.dumps(said))


def test_names_of_the_former_release_answer_only_where_they_are_open_and_its_proofs_are_none(
    open_store: OpenStore,
) -> None:
    store = open_store()
    open_one, closed = add(store, "open", MODEL).digest, add(store, "closed", {**MODEL, "more": b"x"}).digest
    manifest, index = store.snapshots.manifest(closed), store.layout.index
    store.close()
    in_the_tables_of("fourth", index, as_it_was)
    say_own(manifest)
    for _ in range(2):
        store = open_store()
        assert store.recovered.rows_dropped == 0 and store.recovered.index == "kept"
        assert store.index.find(key("open"), ("",)).snapshot == open_one  # type: ignore[union-attr]
        assert store.index.find(key("closed"), ("", "own", "nobody")) is None
        assert store.index.find(key("closed")).snapshot == closed, "but administrators are shown it"  # type: ignore[union-attr]
        assert store.index.access(closed) == Access("caller", PROBE)
        assert not store.entrants.stands_open(closed) and store.entrants.until(closed, 7) == 0
        assert store.proofs.at(PROBE, "own") is None
        store.close()
    store = open_store()
    store.resolved({key("closed"): ("s3://bucket/closed", "revision")}, closed, Access("open"))
    assert [row["who"] for row in store.index.query("SELECT who FROM resolution WHERE ref = ?", (key("closed"),))] == [
        ""
    ]


def test_a_name_that_was_not_what_was_written_is_not_sealed_anew(open_store: OpenStore) -> None:
    store = open_store()
    one = add(store, "one", MODEL).digest
    index = store.layout.index
    store.close()
    in_the_tables_of("fourth", index, lambda db: db.execute("UPDATE resolution SET revision = 'sevision'") and None)
    rows = open_store().index.query("SELECT revision, snapshot FROM resolution")
    assert [(row["revision"], row["snapshot"]) for row in rows] == [("revision", one.hex)], "from its manifest"


def test_seals_of_names_cover_whose_they_are(open_store: OpenStore) -> None:
    store = open_store()
    snapshot = add(store, "m", MODEL).digest
    store.resolved({key("m"): ("s3://bucket/m", "v")}, snapshot, Access("caller", f"place:{PROBE}"), "mine")
    with store.index.transaction() as db:
        db.execute("UPDATE resolution SET who = 'thine' WHERE who = 'mine'")
    store = open_store()
    assert store.recovered.rows_dropped == 1
    assert store.index.find(key("m"), ("mine", "thine")) is None


def test_a_damaged_index_of_the_former_release_is_believed_as_far_as_its_seals_go(open_store: OpenStore) -> None:
    store = open_store()
    open_one, closed = add(store, "open", MODEL).digest, add(store, "closed", {**MODEL, "more": b"x"}).digest
    manifest, index = store.snapshots.manifest(closed), store.layout.index
    store.close()
    say_own(manifest)

    def damage(db: sqlite3.Connection) -> None:
        as_it_was(db)
        row = "alias", "s3://bucket/alias", "v", open_one.hex, "open"
        db.execute("INSERT INTO resolution VALUES (?, ?, ?, ?, 0, ?, ?)", (*row[:4], seal(*row), row[4]))
        db.execute("DROP INDEX identity_by_blob")

    in_the_tables_of("fourth", index, damage)
    store = open_store()
    assert store.recovered.index.startswith("rebuilt: damaged")
    assert store.index.find("alias", ("",)).snapshot == open_one  # type: ignore[union-attr]
    assert store.index.find(key("closed"), ("", "own")) is None
    assert store.index.find(key("closed")).snapshot == closed  # type: ignore[union-attr]
