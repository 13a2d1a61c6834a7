"""Space for running fills, step by step: the files they wait for, the space set aside, and the snapshots promised."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cached.model import Digest
from cached.store.index import fills
from cached.store.index.index import Index


@dataclass(frozen=True, slots=True)
class Reservation:
    """Space reserved for a file: `bytes` are set aside, of the full `size`."""

    bytes: int
    size: int

    @property
    def lacks(self) -> int:
        return self.size - self.bytes


@dataclass(frozen=True, slots=True)
class FillRow:
    """A fill as the index knows it: it waits for the keys in `wants` and counts on the blobs (hex) in `holds`;
    `overhead` bytes are set aside for what its snapshot will take beside them."""

    id: int
    source: str
    uid: int | None
    wants: frozenset[str]
    holds: frozenset[str]
    overhead: int = 0


class Promises:
    def __init__(self, index: Index) -> None:
        self._index = index

    def reservations(self, keys: Iterable[str] | None = None) -> dict[str, Reservation]:
        """Return the reservations of these keys, by key; all there are with None."""
        rows = self._index.query(
            "SELECT key, bytes, size FROM reservation WHERE ?1 IS NULL OR key IN (SELECT value FROM json_each(?1))",
            (None if keys is None else json.dumps(list(keys)),),
        )
        return {row["key"]: Reservation(row["bytes"], row["size"]) for row in rows}

    def fills(self) -> list[FillRow]:
        """Return the running fills, oldest first."""
        wanted = self._grouped("SELECT fill, key FROM want")
        held = self._grouped("SELECT fill, blob FROM hold")
        rows = self._index.query("SELECT id, source, uid, overhead FROM fill ORDER BY id")
        return [
            FillRow(
                row["id"], row["source"], row["uid"], _set(wanted, row["id"]), _set(held, row["id"]), row["overhead"]
            )
            for row in rows
        ]

    def waiting(self, keys: Iterable[str]) -> list[int]:
        """Return the fills that wait for any of these keys, oldest first."""
        rows = self._index.query(
            "SELECT DISTINCT fill FROM want WHERE key IN (SELECT value FROM json_each(?)) ORDER BY fill",
            (json.dumps(list(keys)),),
        )
        return [row["fill"] for row in rows]

    def promised(self) -> dict[Digest, int]:
        """Return the fill that each snapshot is promised to."""
        return {Digest(r["snapshot"]): r["fill"] for r in self._index.query("SELECT snapshot, fill FROM promise")}

    def grant(self, fill: int, steps: Mapping[str, int], capacity: int, most: int, rest: bool) -> None:
        """Set space aside for the fill, as far as there is any, and at most `most` bytes: see `fills.grant`."""
        with self._index.transaction() as db:
            fills.grant(db, fill, steps, min(most, capacity - fills.committed(db)), rest)

    def promise(self, fill: int, snapshots: Iterable[Digest]) -> None:
        """Promise the snapshots to the fill: see `fills.promise`. A fill or a snapshot that is gone is ignored."""
        with self._index.transaction() as db:
            there = {row["digest"] for row in db.execute("SELECT digest FROM snapshot")}
            if db.execute("SELECT 1 FROM fill WHERE id = ?", (fill,)).fetchone():
                fills.promise(db, fill, [digest for digest in snapshots if digest.hex in there])

    def set_aside(self, fill: int, overhead: int) -> None:
        """Set `overhead` bytes aside for what the fill's snapshot will take beside its blobs. The caller has checked
        that they are free."""
        with self._index.transaction() as db:
            db.execute("UPDATE fill SET overhead = ? WHERE id = ?", (overhead, fill))

    def give_up(self, fill: int) -> None:
        """Release the claims of a fill that is about to end: see `fills.give_up`."""
        with self._index.transaction() as db:
            fills.give_up(db, fill)

    def _grouped(self, sql: str) -> dict[int, set[str]]:
        found: dict[int, set[str]] = {}
        for fill, text in map(tuple, self._index.query(sql)):
            found.setdefault(fill, set()).add(text)
        return found


def _set(found: Mapping[int, set[str]], fill: int) -> frozenset[str]:
    return frozenset(found.get(fill, ()))
