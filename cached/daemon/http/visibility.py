"""What one user may hear of the models on a disk: which there are, what they are called, and who uses them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cached.access import Access
from cached.daemon.acquire.authorization import Gate
from cached.daemon.space.disk import Disk
from cached.model import Digest
from cached.model_ref import ModelRef

_NAMES = (
    "SELECT r.snapshot, r.ref, r.source, r.revision, r.access, "
    "EXISTS (SELECT 1 FROM entrant e WHERE e.snapshot = r.snapshot AND e.uid = ?) AS entered FROM resolution r "
)


@dataclass(frozen=True, slots=True)
class Title:
    """What a snapshot is called; `source` and `revision` are empty when no name of it may be heard."""

    source: str
    revision: str
    refs: list[str]


class Hearing:
    """Of the user `only` on one disk, at this moment; None is an administrator, who hears all. In the disk's thread.

    The same bytes may have come from several places. A name for everybody is heard by whoever hears of the snapshot,
    any other by its entrants alone: those of a snapshot that somebody else's bucket has too hear of the bucket no more
    than strangers do.
    """

    def __init__(self, gate: Gate, disk: Disk, only: int | None) -> None:
        self._disk, self._uid = disk, -1 if only is None else only
        self._visible = gate.visible(disk, only)

    @property
    def all(self) -> bool:
        return self._visible is None

    def hears(self, snapshot: str, ref: str | None = None) -> bool:
        """Of the snapshot (hex) at all; with a ref (ModelRef.key), that it is what this means."""
        if self._visible is None or snapshot not in self._visible:
            return self._visible is None
        return ref is None or any(name["ref"] == ref for name in self._names(snapshot))

    def title(self, snapshot: sqlite3.Row) -> Title:
        """Of a row of `snapshot`."""
        return self._title(snapshot, self._names(snapshot["digest"]))

    def titles(self, snapshots: Iterable[sqlite3.Row]) -> list[tuple[sqlite3.Row, Title]]:
        """Those of many rows that may be heard of: the names of all are read at once."""
        names: dict[str, list[sqlite3.Row]] = {}
        for row in self._disk.store.index.query(_NAMES + "ORDER BY r.source", (self._uid,)):
            names.setdefault(row["snapshot"], []).append(row)
        return [
            (row, self._title(row, self._heard(names.get(row["digest"], []))))
            for row in snapshots
            if self.hears(row["digest"])
        ]

    def leases(self, only: Digest | None = None) -> list[dict[str, Any]]:
        """As `Uses.leases`; of others' processes administrators alone hear."""
        found = self._disk.uses.leases(only)
        if self.all:
            return found
        mine = [lease for lease in found if lease["uid"] == self._uid]
        return [{**lease, "source": self._source(Digest.parse(lease["digest"]))} for lease in mine]

    def _source(self, snapshot: Digest) -> str:
        rows = self._disk.store.index.query("SELECT * FROM snapshot WHERE digest = ?", (snapshot.hex,))
        return self.title(rows[0]).source if rows and self.hears(snapshot.hex) else ""

    def _title(self, snapshot: sqlite3.Row, names: list[sqlite3.Row]) -> Title:
        """By what it was first fetched for, if that may be heard; else by what is left."""
        refs = list(dict.fromkeys(name["source"] for name in names))  # It may mean the same to several.
        if self.all or any(name["ref"] == snapshot["ref"] for name in names) or self._is_open(snapshot["ref"]):
            return Title(snapshot["source"], snapshot["revision"], refs)
        return Title(names[0]["source"], names[0]["revision"], refs) if names else Title("", "", [])

    def _is_open(self, ref: str) -> bool:
        """A name for everybody is no secret when it has come to mean another snapshot."""
        rows = self._disk.store.index.query("SELECT access FROM resolution WHERE ref = ?", (ref,))
        return any(map(self._everybodys, rows))

    def _names(self, snapshot: str) -> list[sqlite3.Row]:
        query = _NAMES + "WHERE r.snapshot = ? ORDER BY r.source"
        return self._heard(self._disk.store.index.query(query, (self._uid, snapshot)))

    def _heard(self, names: list[sqlite3.Row]) -> list[sqlite3.Row]:
        """Of all the names of one snapshot."""
        if self.all:
            return names
        # That the user entered mostly says that it proved one of them. No row says which: `proof` knows credentials and
        # no uids, `entrant` uids and no names. So where several places have it that are not for everybody, none is
        # told, and the user may miss its own: by the digest it still finds the snapshot. Nor has an entry who opened a
        # model that everybody could enter by then. The other way round, a place of which no name is left does not
        # count: who came in by that, or while it was open, hears of the one that is left, until its time is over.
        closed = {ModelRef.from_key(name["ref"]).uri for name in names if not self._everybodys(name)}
        return [name for name in names if self._everybodys(name) or (name["entered"] and len(closed) == 1)]

    def _everybodys(self, name: sqlite3.Row) -> bool:
        return self._disk.store.entrants.everybody(Access.parse(name["access"]))
