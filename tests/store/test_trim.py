"""Rows are bounded, whatever callers and sources can think of; and what the index takes, blobs do not get."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest

from cached.config import Size
from cached.model import Digest, Manifest
from cached.model_ref import ModelRef
from cached.store import overhead
from cached.store import store as store_module
from cached.store.index import trim
from cached.store.snapshots.snapshots import Origin
from cached.store.store import Store
from tests.store.stored import OPEN, add

Open = Callable[[], Store]


def names(store: Store) -> list[str]:
    return [row["ref"] for row in store.index.query("SELECT ref FROM resolution ORDER BY checked_at")]


def resolve(store: Store, manifest: Manifest, *refs: ModelRef) -> None:
    store.resolved({ref.key: (str(ref), "revision") for ref in refs}, manifest.digest, OPEN)


def test_a_snapshot_has_so_many_names_and_those_without_patterns_stay(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trim, "NAMES", 10)
    store = open_store()
    manifest = add(store, "model", {"config.json": b"{}"})
    plain = ModelRef.parse("s3://bucket/model")
    resolve(store, manifest, replace(plain, lean=True))
    ways = [
        ModelRef.parse("s3://bucket/model", exclude=[f"x{number}" * (number % 2 * 300 + 1)]) for number in range(50)
    ]
    for ref in ways:
        resolve(store, manifest, ref)
    assert len(names(store)) == 10
    assert {plain.key, replace(plain, lean=True).key, *(ref.key for ref in ways[-8:])} == set(names(store))
    assert store.index.find(plain.key)


def test_a_blob_has_so_many_identities_and_the_last_is_known(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trim, "IDENTITIES", 5)
    store = open_store()
    for number in range(20):
        add(store, f"model{number}", {"config.json": b"{}"})
        rows = store.index.query("SELECT identity FROM identity")
        assert any(f"model{number}" in row["identity"] for row in rows)
    assert len(rows) == 5


def test_so_many_leases_are_described(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trim, "LEASES", 5)
    store = open_store()
    digest = add(store, "model", {"config.json": b"{}"}).digest
    for pid in range(1, 20):
        store.index.touch({}, [(digest, pid, 0, "holder", float(pid))])
    rows = store.index.query("SELECT pid FROM lease ORDER BY pid")
    assert [row["pid"] for row in rows] == [15, 16, 17, 18, 19]


def test_of_too_many_snapshots_those_go_that_cost_nothing_to_make_again(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SNAPSHOTS", 4)
    store = open_store()
    own = add(store, "own", {"config.json": b"oldest, and nobody else has its bytes"})
    whole = add(store, "whole", {f"{number}": f"{number}".encode() for number in range(6)})
    parts = []
    for size in range(2, 6):
        part = Manifest(whole.files[:size])
        ref = ModelRef.parse("s3://bucket/whole", include=[f"[0-{size - 1}]"])
        store.commit(part, Origin(ref.key, str(ref), "revision", OPEN), {ref.key: (str(ref), "revision")}, None)
        parts.append(part.digest)
    store.index.touch({digest: float(at) for at, digest in enumerate([own.digest, *parts])})
    store.drop_surplus()
    left = {Digest(row["digest"]) for row in store.index.query("SELECT digest FROM snapshot")}
    assert len(left) == 4
    assert {own.digest, whole.digest} <= left
    assert store.usage().used == own.size + whole.size


def test_what_the_index_and_snapshots_take_beyond_what_any_node_needs_is_taken_off_the_limit(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    store._config = replace(store._config, limit=Size(1 << 30))
    before = store.usage().limit
    monkeypatch.setattr(overhead, "SPARE", 0)
    bare = store.usage().limit
    assert before - bare >= store.layout.index.stat().st_size
    add(store, "model", {f"{number}": b"x" for number in range(100)})
    assert bare - store.usage().limit >= overhead.A_SNAPSHOT + 100 * overhead.A_FILE


def test_the_index_stays_as_long_as_it_is_however_often_names_come_and_go(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trim, "NAMES", 10)
    store = open_store()
    manifest = add(store, "model", {"config.json": b"{}"})
    numbers = itertools.count()

    def churn() -> int:
        for _ in range(300):
            resolve(store, manifest, ModelRef.parse("s3://bucket/model", include=[f"{next(numbers)}-{'y' * 400}"]))
        return sum(path.stat().st_size for path in store.layout.root.glob("index.db*"))

    churn()
    first = churn()
    assert churn() <= first + (1 << 16)
