"""Times that cannot be, after the clock was set back."""

from __future__ import annotations

import time

from cached.model import PIECE_BYTES

from .harm import MODEL, OpenStore, park, sql
from .stored import add


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
