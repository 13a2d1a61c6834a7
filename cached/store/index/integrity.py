"""Check whether an index can be trusted, for every kind of damage that shows without a comparison with the disk.

SQLite has no checksums. These checks cannot find a cell that reads well and differs from what was written; as far as
the disk can tell, it is corrected from there.
"""

from __future__ import annotations

import sqlite3

from cached.store.index.schema import Database, migrate

# The digests that are no foreign keys; the check of foreign keys shows damage to the others.
_DIGESTS = (("blob", "digest"), ("snapshot", "digest"))


def problem(db: sqlite3.Connection) -> str | None:
    """Return a description of the damage to the database; None when none is visible. Some damage raises
    sqlite3.DatabaseError instead."""
    # Damage in the header can make it read-only, which only a write reveals.
    db.execute("DELETE FROM fill WHERE false")
    found = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        return str(found).splitlines()[-1]
    if _schema(db) != _true_schema():
        return "its tables are not the ones that cached makes"
    orphan = db.execute("PRAGMA foreign_key_check").fetchone()
    if orphan is not None:
        return f"a row of {orphan[0]} names one of {orphan[2]} that is not there"
    for table, column in _DIGESTS:
        if db.execute(
            f"SELECT 1 FROM {table} WHERE length({column}) <> 64 OR {column} GLOB '*[^0-9a-f]*' LIMIT 1"
        ).fetchone():
            return f"a row of {table} has no digest for a name"
    return _undecodable(db)


def _undecodable(db: sqlite3.Connection) -> str | None:
    """Return a description of text that is not UTF-8, if there is any: the first query to read it would fail."""
    cursor = db.cursor()
    cursor.row_factory = None
    tables = cursor.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for (table,) in tables:
        columns = [row[1] for row in cursor.execute(f"PRAGMA table_info({table})") if row[2] == "TEXT"]
        try:
            for _ in cursor.execute(f"SELECT {', '.join(columns)} FROM {table}") if columns else ():
                pass
        except (sqlite3.OperationalError, UnicodeDecodeError):
            return f"{table} holds text that is none"
    return None


def _schema(db: sqlite3.Connection) -> list[tuple[str, ...]]:
    cursor = db.cursor()
    cursor.row_factory = None
    # The table of migrations belongs to sqlite-utils, and may differ in another version of it.
    rows = cursor.execute("SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE '%sqlite%'")
    return sorted((kind, name, table, " ".join((sql or "").split())) for kind, name, table, sql in rows)


def _true_schema() -> list[tuple[str, ...]]:
    with sqlite3.connect(":memory:", isolation_level=None) as db:
        migrate(Database(db))
        return _schema(db)
