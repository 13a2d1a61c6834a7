"""Remove the query strings that earlier versions recorded: they are often signatures, so only a hash of each is kept.

The new names are those under which ModelRef now finds the model, so cached models stay cached.
"""

from __future__ import annotations

import json
import re
import sqlite3
from dataclasses import replace

from cached.errors import InvalidRequest
from cached.store.index.row_seals import SEALED, drop_broken, teach
from cached.store.snapshots.snapshots import Origin
from cached.uris import WEB_SCHEMES, canonical, display_name

_json = json.JSONEncoder(separators=(",", ":")).encode


def hide_in_index(db: sqlite3.Connection) -> None:
    """Hide the query strings in every row of the index."""
    teach(db)
    drop_broken(db)  # A broken row must not be sealed again.
    db.execute("PRAGMA secure_delete = ON")  # Else the old text stays in the file until its space is reused.
    for table, column, hidden in (
        ("resolution", "ref", hide_in_key),
        ("snapshot", "ref", hide_in_key),
        ("identity", "identity", hide_in_key),
        ("resolution", "source", display_name),
        ("snapshot", "source", display_name),
        ("event", "source", display_name),
        ("event", "why", _hide_in_sentence),
    ):
        known = {row[0] for row in db.execute(f"SELECT {column} FROM {table} WHERE {column} LIKE '%http%?%'")}
        changed = [(new, old) for old in known if (new := hidden(old)) != old]
        db.executemany(f"UPDATE OR REPLACE {table} SET {column} = ? WHERE {column} = ?", changed)
    for table, names in SEALED.items():
        db.execute(f"UPDATE {table} SET seal = seal({names}) WHERE {names.partition(',')[0]} LIKE '[\"http%'")


def hide_in_origin(origin: Origin) -> Origin:
    """Return the origin without query strings; an equal one where there is nothing to hide."""
    return replace(origin, ref=hide_in_key(origin.ref), source=display_name(origin.source))


def hide_in_key(key: str) -> str:
    """Return a ModelRef.key or a Listing.identity (JSON lists that begin with the URI) with its query string hidden;
    the same text where there is none."""
    if not key.startswith('["http') or "?" not in key:
        return key
    try:
        uri, *rest = json.loads(key)
        return _json([_hidden(uri), *rest])
    except (ValueError, TypeError):
        return key


def _hide_in_sentence(text: str) -> str:
    return re.sub(r"(https?://[^\s?]*)\?\S*", r"\1", text)


def _hidden(uri: str) -> str:
    scheme, _, place = uri.partition("://")
    if scheme not in WEB_SCHEMES:
        return uri
    try:
        return canonical(scheme, place)[0]
    except InvalidRequest:
        return display_name(uri)
