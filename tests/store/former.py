"""An index as a former release wrote it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

from cached.store.index import schema
from cached.store.index.row_seals import teach


def in_the_tables_of(migration: str, index: Path, change: Callable[[sqlite3.Connection], None]) -> None:
    """The same rows in the tables that this migration, and those before it, made; then changed."""
    old = index.with_name("index.old")
    with contextlib.closing(sqlite3.connect(old, isolation_level=None)) as db:
        teach(db)
        names = [each.name for each in schema.migrations.pending(schema.Database(db))]
        schema.migrations.apply(schema.Database(db), stop_before=names[names.index(migration) + 1 :])
        db.execute("ATTACH ? AS new", (str(index),))
        tables = "SELECT name FROM main.sqlite_master WHERE type = 'table' AND name NOT LIKE '\\_%' ESCAPE '\\'"
        for (table,) in db.execute(tables).fetchall():
            columns = ", ".join(row[1] for row in db.execute(f"PRAGMA main.table_info({table})"))
            db.execute(f"DELETE FROM main.{table}")  # The key of the fingerprints comes with the table.
            if table != "proof":
                db.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}")
        db.execute("DETACH new")
        change(db)
    for path in index.parent.glob("index.db*"):
        path.unlink()
    old.rename(index)
