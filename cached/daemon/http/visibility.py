"""The models on a disk that are visible to one user: which snapshots exist, their names, and the processes that use
them."""

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
    """The visible name of a snapshot; `source` and `revision` are empty when none of its names is visible."""

    source: str
    revision: str
    refs: list[str]


class Hearing:
    """Decide what is visible on one disk, now, to the user `only`; None is an administrator, to whom all is visible.
    Use in the disk's thread.

    The same bytes may have come from several places. A name for everybody is visible to all users that see the
    snapshot, any other name only to its entrants: users of a snapshot that is also in another user's bucket learn no
    more of that bucket than strangers do.
    """

    def __init__(self, gate: Gate, disk: Disk, only: int | None) -> None:
        self._disk, self._uid = disk, -1 if only is None else only
        self._visible = gate.visible(disk, only)

    @property
    def all(self) -> bool:
        return self._visible is None

    def hears(self, snapshot: str, ref: str | None = None) -> bool:
        """Return True if the snapshot (hex) is visible; with a ref (ModelRef.key), if it is also visible that the ref
        means it."""
        if self._visible is None or snapshot not in self._visible:
            return self._visible is None
        return ref is None or any(name["ref"] == ref for name in self._names(snapshot))

    def title(self, snapshot: sqlite3.Row) -> Title:
        """Return the title of a row of `snapshot`."""
        return self._title(snapshot, self._names(snapshot["digest"]))

    def titles(self, snapshots: Iterable[sqlite3.Row]) -> list[tuple[sqlite3.Row, Title]]:
        """Return the visible rows of many with their titles: the names of all are read at once."""
        names: dict[str, list[sqlite3.Row]] = {}
        for row in self._disk.store.index.query(_NAMES + "ORDER BY r.source", (self._uid,)):
            names.setdefault(row["snapshot"], []).append(row)
        return [
            (row, self._title(row, self._heard(names.get(row["digest"], []))))
            for row in snapshots
            if self.hears(row["digest"])
        ]

    def leases(self, only: Digest | None = None) -> list[dict[str, Any]]:
        """Return leases as `Uses.leases` does; those of other users' processes are visible to administrators alone."""
        found = self._disk.uses.leases(only)
        if self.all:
            return found
        mine = [lease for lease in found if lease["uid"] == self._uid]
        return [{**lease, "source": self._source(Digest.parse(lease["digest"]))} for lease in mine]

    def _source(self, snapshot: Digest) -> str:
        rows = self._disk.store.index.query("SELECT * FROM snapshot WHERE digest = ?", (snapshot.hex,))
        return self.title(rows[0]).source if rows and self.hears(snapshot.hex) else ""

    def _title(self, snapshot: sqlite3.Row, names: list[sqlite3.Row]) -> Title:
        """Choose the name that the snapshot was first fetched for, if it is visible; else one of the visible names."""
        refs = list(dict.fromkeys(name["source"] for name in names))  # Several may record one name.
        if self.all or any(name["ref"] == snapshot["ref"] for name in names) or self._is_open(snapshot["ref"]):
            return Title(snapshot["source"], snapshot["revision"], refs)
        return Title(names[0]["source"], names[0]["revision"], refs) if names else Title("", "", [])

    def _is_open(self, ref: str) -> bool:
        """Return True if the ref is a name for everybody: it is no secret even when it has come to mean another
        snapshot."""
        rows = self._disk.store.index.query("SELECT access FROM resolution WHERE ref = ?", (ref,))
        return any(map(self._everybodys, rows))

    def _names(self, snapshot: str) -> list[sqlite3.Row]:
        query = _NAMES + "WHERE r.snapshot = ? ORDER BY r.source"
        return self._heard(self._disk.store.index.query(query, (self._uid, snapshot)))

    def _heard(self, names: list[sqlite3.Row]) -> list[sqlite3.Row]:
        """Return the visible names among all the names of one snapshot."""
        if self.all:
            return names
        # A user that entered has mostly proved one of these names. No row says which: `proof` has credentials and no
        # uids, `entrant` has uids and no names. So where several places that are not for everybody have the snapshot,
        # none of them is visible, and the user may miss its own name: it still finds the snapshot by its digest. A user
        # that opened the model while everybody could enter has no entry either. Conversely, a place without names left
        # does not count: a user that entered by it, or while it was open, sees the remaining name until its time ends.
        closed = {ModelRef.from_key(name["ref"]).uri for name in names if not self._everybodys(name)}
        return [name for name in names if self._everybodys(name) or (name["entered"] and len(closed) == 1)]

    def _everybodys(self, name: sqlite3.Row) -> bool:
        return self._disk.store.entrants.everybody(Access.parse(name["access"]))
