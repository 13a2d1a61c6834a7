"""The files that fills wait for, and the space they take: rows of the index's tables `fill`, `want`, `hold`,
`reservation` and `promise`.

A reservation's `bytes` are space that is set aside: used space plus these is within the limit at every moment, and
nothing is written beyond them. The rest of its `size` has yet to be found; snapshots are promised for it, and are
evicted when it is needed, see `Promises`.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from cached.model import Digest


@dataclass(frozen=True, slots=True)
class Promised:
    """The terms on which a fill begins: the `snapshots` promised to it, the `room` in bytes that is free for it
    already, the user (`uid`) on whose account it is, and the `overhead` in bytes set aside for what its snapshot takes
    beside its blobs."""

    snapshots: tuple[Digest, ...] = ()
    room: int = 0
    uid: int | None = None
    overhead: int = 0


NOTHING = Promised()


def begin(
    db: sqlite3.Connection,
    source: str,
    needs: Mapping[str, int],
    holds: Iterable[Digest],
    capacity: int,
    promised: Promised | None = None,
) -> int | None:
    """Insert a new fill and return its id; None when space is short and nothing is promised. Raise LookupError when a
    held blob, or a promised snapshot, is gone. See `Index.begin`."""
    room = capacity - committed(db)
    if promised is None:
        if (needed := _uncovered(db, needs)) > max(room, 0):
            return None
        promised = Promised(room=needed)
    now = time.time()
    # By the clock, so that no id is used twice: ending a fill must not end the next one.
    cursor = db.execute(
        "INSERT INTO fill (id, source, started_at, uid, overhead) "
        "VALUES (max(?, 1 + (SELECT coalesce(max(id), 0) FROM fill)), ?, ?, ?, ?)",
        (int(now * 1e6), source, now, promised.uid, promised.overhead),
    )
    fill = cursor.lastrowid
    assert fill is not None  # sqlite3 types it as optional; an INSERT always has one.
    try:
        db.executemany("INSERT OR IGNORE INTO hold VALUES (?, ?)", [(fill, digest.hex) for digest in holds])
        promise(db, fill, promised.snapshots)
    except sqlite3.IntegrityError:
        raise LookupError("a held blob is gone") from None
    fresh = grant_new(db, needs, min(room, promised.room))
    db.executemany(
        "INSERT OR IGNORE INTO reservation (key, bytes, size, created_at) VALUES (?, ?, ?, ?)",
        [(key, fresh.get(key, 0), size, now) for key, size in needs.items()],
    )
    # A fill that is ending may have reduced them: see `give_up`.
    db.executemany("UPDATE reservation SET size = ?1 WHERE key = ?2 AND size < ?1", [(s, k) for k, s in needs.items()])
    db.executemany("INSERT INTO want VALUES (?, ?)", [(fill, key) for key in needs])
    return fill


def give_up(db: sqlite3.Connection, fill: int) -> None:
    """Release the claims of a fill that is about to end: its promises, and reserved `size` beyond the bytes set aside,
    unless another fill wants the file."""
    db.execute("DELETE FROM promise WHERE fill = ?", (fill,))
    db.execute(
        "UPDATE reservation SET size = bytes WHERE key IN (SELECT key FROM want WHERE fill = ?1) "
        "AND key NOT IN (SELECT key FROM want WHERE fill <> ?1)",
        (fill,),
    )


def _uncovered(db: sqlite3.Connection, needs: Mapping[str, int]) -> int:
    """Return the bytes of `needs` for which space is neither found nor being found for another fill."""
    covered = {row["key"]: row["bytes"] for row in db.execute("SELECT key, bytes FROM reservation")}
    covered |= {row["key"]: needs.get(row["key"], 0) for row in db.execute("SELECT DISTINCT key FROM want")}
    return sum(size - min(size, covered.get(key, 0)) for key, size in needs.items())


def grant_new(db: sqlite3.Connection, needs: Mapping[str, int], room: int) -> dict[str, int]:
    """Set up to `room` bytes aside for a fill that begins, in the order of `needs`: complete the parked reservations,
    and return the bytes of the new ones, by key. Files that another fill waits for are left out."""
    wanted = {row["key"] for row in db.execute("SELECT DISTINCT key FROM want")}
    rows = db.execute("SELECT key, bytes, size FROM reservation").fetchall()
    known = {row["key"]: row["bytes"] for row in rows}
    fresh: dict[str, int] = {}
    for key, size in needs.items():
        more = max(0, min(room, size - known.get(key, 0)))
        if key in wanted or not more:
            continue
        room -= more
        if key in known:
            db.execute("UPDATE reservation SET bytes = bytes + ? WHERE key = ?", (more, key))
        else:
            fresh[key] = more
    return fresh


def grant(db: sqlite3.Connection, fill: int, steps: Mapping[str, int], room: int, rest: bool) -> None:
    """Set up to `room` bytes aside for files that a fill waits for: first up to these `steps` (bytes by key), then,
    with `rest`, for all that it lacks."""
    rows = db.execute(
        "SELECT r.key, r.bytes, r.size FROM want w JOIN reservation r ON r.key = w.key "
        "WHERE w.fill = ? AND r.bytes < r.size",
        (fill,),
    ).fetchall()
    has = {row["key"]: row["bytes"] for row in rows}
    sizes = {row["key"]: row["size"] for row in rows}
    before = dict(has)
    ends = [(key, min(end, sizes[key])) for key, end in steps.items() if key in sizes]
    ends += [(key, sizes[key]) for key in [*steps, *sizes] if key in sizes] if rest else []
    for key, end in ends:
        more = max(0, min(room, end - has[key]))
        has[key] += more
        room -= more
    changed = [(size, key) for key, size in has.items() if size != before[key]]
    db.executemany("UPDATE reservation SET bytes = ? WHERE key = ?", changed)


def promise(db: sqlite3.Connection, fill: int, snapshots: Iterable[Digest]) -> None:
    """Promise exactly these snapshots to the fill. They are no longer promised to any other fill."""
    db.execute("DELETE FROM promise WHERE fill = ?", (fill,))
    db.executemany("INSERT OR REPLACE INTO promise (snapshot, fill) VALUES (?, ?)", [(d.hex, fill) for d in snapshots])


def committed(db: sqlite3.Connection) -> int:
    """Return the bytes used plus the bytes set aside."""
    row = db.execute(
        "SELECT (SELECT coalesce(sum(size), 0) FROM blob WHERE NOT damaged) "
        "+ (SELECT coalesce(sum(bytes), 0) FROM reservation)"
    ).fetchone()
    return int(row[0])


def fulfil(db: sqlite3.Connection, came: Collection[tuple[str, Digest]]) -> None:
    """Record the blobs published under these keys: every fill that wanted one now holds it, and the bytes reserved for
    it are in use."""
    db.executemany(
        "INSERT OR IGNORE INTO hold SELECT fill, ? FROM want WHERE key = ?", [(blob.hex, key) for key, blob in came]
    )
    db.executemany("DELETE FROM reservation WHERE key = ?", [(key,) for key, _ in came])


def free(db: sqlite3.Connection, parked: Mapping[str, int]) -> None:
    """Drop the reservations that no fill wants any more; `parked` ones are set to the bytes given by key."""
    rows = db.execute("SELECT key, bytes FROM reservation WHERE key NOT IN (SELECT key FROM want)").fetchall()
    for row in rows:
        if row["key"] not in parked:
            db.execute("DELETE FROM reservation WHERE key = ?", (row["key"],))
        elif parked[row["key"]] != row["bytes"]:
            db.execute("UPDATE reservation SET bytes = ? WHERE key = ?", (parked[row["key"]], row["key"]))


def forget_parked(db: sqlite3.Connection, key: str) -> bool:
    """Drop a parked reservation. Return False when there is none, or a fill wants it again."""
    rows = db.execute(
        "DELETE FROM reservation WHERE key = ? AND key NOT IN (SELECT key FROM want) RETURNING key", (key,)
    ).fetchall()
    return bool(rows)
