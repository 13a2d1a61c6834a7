"""A store with enough in it that each table of the index fills pages, and what is true of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cached.model import Digest
from cached.store.store import Store
from tests.faults.models import SHARED, Model, fetch, open_store
from tests.faults.roots import copy_root

MODELS = [
    Model(
        f"library/model-{number:03}",
        {"config.json": b'{"number": %d}' % number, "w/model.safetensors": b"w%d" % number * 50, "tok.json": SHARED},
    )
    for number in range(45)
]
_LATE = 5  # Models whose rows are in the write-ahead log alone when the daemon is killed.

Rows = dict[str, list[tuple[object, ...]]]
TABLES = ("blob", "snapshot", "snapshot_blob", "resolution", "identity", "pin", "lease", "event")


@dataclass(frozen=True)
class Library:
    """Roots that nobody has open, of a daemon that was stopped and of one that was killed; an index of long before."""

    stopped: Path
    killed: Path
    old_index: Path
    rows: Rows

    @classmethod
    def build(cls, folder: Path) -> Library:
        root, killed, old = folder / "library", folder / "library.killed", folder / "library.old"
        with closing(open_store(root)) as store:
            for model in MODELS[: -2 * _LATE]:
                fetch(store, model)
        old.write_bytes((root / "index.db").read_bytes())
        with closing(open_store(root)) as store:
            for model in MODELS[-2 * _LATE : -_LATE]:
                fetch(store, model)
            store.index.pin(MODELS[3].digest, None, 0)
            store.index.pin(MODELS[4].digest, 4e9, 0)
        with closing(open_store(root)) as store:
            for model in MODELS[-_LATE:]:
                fetch(store, model)
            store.evict(MODELS[-1].digest, "to make room")
            copy_root(root, killed)
            rows = rows_of(store)
        return cls(root, killed, old, rows)


HELD = MODELS[:-1]  # The last one was evicted again.


def rows_of(store: Store) -> Rows:
    return {table: [tuple(row) for row in store.index.query(f"SELECT * FROM {table}")] for table in TABLES}


def blobs_of(models: list[Model]) -> dict[Digest, int]:
    return {blob: size for model in models for blob, size in model.manifest.blobs.items()}


def texts(rows: Rows) -> Iterator[tuple[str, int, object]]:
    """Every cell: table, column, value."""
    for table, found in rows.items():
        for row in found:
            for column, value in enumerate(row):
                yield table, column, value
