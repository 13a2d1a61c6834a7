"""Who may enter the directories of snapshots: everybody, or the uids that proved that they may read the model.

The kernel enforces it: a POSIX ACL on the directory. Blobs themselves are behind one that is the daemon's alone.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator

from cached.access import Access
from cached.errors import CachedError, StoreDegraded, TooManyUsers
from cached.model import Digest
from cached.store.disk import disk_errors
from cached.store.index.index import Index
from cached.store.layout import Layout
from cached.store.snapshots.acl import allow, allowed, mode, shut
from cached.store.snapshots.leases import Leases
from cached.store.snapshots.locks import holders

log = logging.getLogger("cached.store")

_READ_ENTER = 5
_LOOK_AGAIN = 1.0  # Seconds after which it is looked again whether a snapshot with as many users as can be has room.
_AS_IT_IS: list[int] = []  # Told by its identity: nothing is to be changed.


class Entrants:
    """`enforced`: whether anything but an open model is shut at all. `own_open`: so is what the daemon's credentials
    opened. Safe to use from several threads."""

    def __init__(self, layout: Layout, index: Index, leases: Leases, enforced: bool, own_open: bool) -> None:
        self._layout, self._index, self._leases = layout, index, leases
        self._open_kinds = {"open", "own"} if own_open else {"open"}
        self._enforced = enforced
        self._lock = threading.Lock()  # In the order of locks that `Store` names.
        self._left_open: set[Digest] = set()  # To be shut when it can be told who leases them.
        self._told: dict[Digest, dict[int, float]] = {}  # Until when who was given the path can use it.
        # Where nobody could be let go: until when (monotonic) that is believed, and what is said meanwhile.
        self._full: dict[Digest, tuple[float, str]] = {}
        self._telling = threading.Lock()  # Of its own: a hit does not wait for the disk.

    def everybody(self, access: Access) -> bool:
        """Whether the directory of such a snapshot is open to all users of the node."""
        return not self._enforced or access.kind in self._open_kinds

    def enter(self, snapshot: Digest, uid: int, until: float) -> None:
        """Let the user in at least until then (seconds since the epoch). On an error it is not let in."""
        with self._lock:
            self._refuse_while_full(snapshot, uid)
            try:
                with self._index.transaction() as db:
                    db.execute(
                        "INSERT INTO entrant SELECT ?, ?, ? WHERE EXISTS (SELECT 1 FROM snapshot WHERE digest = ?) "
                        "ON CONFLICT DO UPDATE SET until = max(until, excluded.until)",
                        (snapshot.hex, uid, until, snapshot.hex),
                    )
                    # Before others see the row, and take the user for one who can enter.
                    self._apply(snapshot, newcomer=uid)
            except BaseException:
                with contextlib.suppress(CachedError):
                    self._apply(snapshot)  # The disk may have taken half of it.
                raise

    def _refuse_while_full(self, snapshot: Digest, uid: int) -> None:
        """A look at hundreds of lock files for each of those who crowd in would be dear."""
        until, why = self._full.get(snapshot, (0.0, ""))
        if time.monotonic() < until and not self._is_inside(snapshot, uid):
            raise TooManyUsers(why)

    def _is_inside(self, snapshot: Digest, uid: int) -> bool:
        """Also where its time is over, as that of who was found inside may be."""
        found = self._index.query("SELECT 1 FROM entrant WHERE snapshot = ? AND uid = ?", (snapshot.hex, uid))
        return bool(found)

    def told(self, snapshot: Digest, uid: int, until: float) -> None:
        """The user is about to hear the path, and can use it until then (seconds since the epoch), should what is open
        to everybody close meanwhile. To be called before it is looked whether it is open. For hits."""
        with self._telling:
            self._told.setdefault(snapshot, {})[uid] = until

    def until(self, snapshot: Digest, uid: int) -> float:
        """Until when (seconds since the epoch) the user is let in; 0 when it is not. For hits."""
        rows = self._index.hits.query("SELECT until FROM entrant WHERE snapshot = ? AND uid = ?", (snapshot.hex, uid))
        return float(rows[0]["until"]) if rows else 0.0

    def expire(self, snapshot: Digest, uid: int, until: float) -> None:
        """Of the user's time nothing is left after this (seconds since the epoch); `sweep` shuts it out then."""
        with self._index.transaction() as db:
            db.execute(
                "UPDATE entrant SET until = min(until, ?) WHERE snapshot = ? AND uid = ?", (until, snapshot.hex, uid)
            )

    def sweep(self, now: float) -> int:
        """Shut out whoever's time is over and who leases nothing there; how many. What had to be left open is tried
        again. An error at one snapshot is raised when all have been looked at."""
        with self._telling:
            for which, told in list(self._told.items()):
                if still := {uid: until for uid, until in told.items() if until >= now}:
                    self._told[which] = still
                else:
                    del self._told[which]
        with self._lock:
            self._full = {which: full for which, full in self._full.items() if full[0] > time.monotonic()}
        for snapshot in sorted(self._left_open, key=str):
            self.apply(snapshot)
        gone, failed = 0, None
        rows = self._index.query("SELECT snapshot, uid FROM entrant WHERE until < ? ORDER BY snapshot", (now,))
        locks = holders() if rows else {}
        for name in sorted({row["snapshot"] for row in rows}):
            over = {row["uid"] for row in rows if row["snapshot"] == name}
            staying = self._leases.users(Digest(name), locks)
            try:
                if staying is not None and (leaving := over - staying):
                    gone += self._leave(Digest(name), leaving, now)
            except CachedError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return gone

    def _leave(self, snapshot: Digest, uids: Collection[int], now: float) -> int:
        with self._lock, self._index.transaction() as db:
            for uid in uids:  # Unless one has come back meanwhile.
                db.execute("DELETE FROM entrant WHERE snapshot = ? AND uid = ? AND until < ?", (snapshot.hex, uid, now))
            self._apply(snapshot)  # On an error the rows stay, for the next sweep.
            for uid in uids:
                self._leases.drop(snapshot, uid)
            self._full.pop(snapshot, None)
        log.info("access.ended", extra={"snapshot": snapshot.hex, "uids": sorted(uids)})
        return len(uids)

    def stands_open(self, snapshot: Digest) -> bool:
        """Whether the disk lets everybody in. When the index has only just come to say so, it may not yet."""
        with disk_errors(f"looking at who may enter the snapshot {snapshot.hex[:12]}"):
            return mode(self._layout.snapshot(snapshot)) & _READ_ENTER == _READ_ENTER

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Nobody is let in or shut out during the block."""
        with self._lock:
            yield

    def apply(self, snapshot: Digest) -> None:
        """Make the directory what the index says. When that shuts what was open to everybody, who leases it
        stays inside; while it cannot be told who does, it is left open, and a later sweep shuts it."""
        with self._lock:
            self._apply(snapshot)

    def _apply(self, snapshot: Digest, newcomer: int | None = None) -> None:
        while (wanted := self._wanted(snapshot)) is not _AS_IT_IS:
            self._left_open.discard(snapshot)
            try:
                with disk_errors(f"setting who may enter the snapshot {snapshot.hex[:12]}"):
                    self._allow(snapshot, wanted)
                return
            except TooManyUsers as error:
                if not self._make_room(snapshot, newcomer):
                    self._full[snapshot] = time.monotonic() + _LOOK_AGAIN, error.message
                    raise

    def _wanted(self, snapshot: Digest) -> list[int] | None:
        """Who may enter; None is everybody. _AS_IT_IS when the snapshot is gone, or has to be left open."""
        with self._index.transaction() as db:
            rows = db.execute("SELECT access FROM snapshot WHERE digest = ?", (snapshot.hex,)).fetchall()
            if not rows:
                self._left_open.discard(snapshot)
                return _AS_IT_IS
            if self.everybody(Access.parse(rows[0]["access"])):
                return None
            if not self._keep_inside(db, snapshot):
                self._leave_open(snapshot)
                return _AS_IT_IS
            entrants = db.execute("SELECT uid FROM entrant WHERE snapshot = ?", (snapshot.hex,)).fetchall()
            return sorted(row["uid"] for row in entrants)

    def _make_room(self, snapshot: Digest, newcomer: int | None) -> bool:
        """Let go of users who neither lease the snapshot nor were told of it just now: they are let in again when they
        ask. Those whose time is over, else an eighth of all, by whose time is over first. False when there are none."""
        now = time.time()
        leasing = self._leases.users(snapshot, holders())
        if leasing is None:
            return False
        with self._telling:
            told = {uid for uid, until in self._told.get(snapshot, {}).items() if until >= now}
        staying = leasing | told | {newcomer}
        with self._index.transaction() as db:
            query = "SELECT uid, until FROM entrant WHERE snapshot = ? ORDER BY until, uid"
            rows = db.execute(query, (snapshot.hex,)).fetchall()
            idle = [row for row in rows if row["uid"] not in staying]
            going = [row["uid"] for row in idle if row["until"] < now] or [row["uid"] for row in idle[: len(rows) // 8]]
            db.executemany("DELETE FROM entrant WHERE snapshot = ? AND uid = ?", [(snapshot.hex, uid) for uid in going])
        for uid in going:
            self._leases.drop(snapshot, uid)
        if going:
            log.info("access.made_room", extra={"snapshot": snapshot.hex, "users": len(going)})
        return bool(going)

    def _allow(self, snapshot: Digest, uids: list[int] | None) -> None:
        path = self._layout.snapshot(snapshot)
        with contextlib.suppress(FileNotFoundError):  # It is damaged, or going.
            try:
                allow(path, _READ_ENTER, uids)
            except (OSError, StoreDegraded, TooManyUsers):
                if uids is not None:
                    shut(path)  # Rather than open: who is named already stays inside.
                raise

    def _keep_inside(self, db: sqlite3.Connection, snapshot: Digest) -> bool:
        """If it was open to everybody: who leases it, or was told of it just now, may enter until a sweep finds
        otherwise. False when it cannot be told who leases it."""
        if not mode(self._layout.snapshot(snapshot)) & 0o001:
            return True
        leasing = self._leases.users(snapshot, holders())
        if leasing is None:
            return False
        with self._telling:
            told = list(self._told.get(snapshot, {}).items())
        db.executemany(
            "INSERT INTO entrant VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET until = max(until, excluded.until)",
            [(snapshot.hex, uid, until) for uid, until in [*((uid, 0.0) for uid in leasing), *told]],
        )
        return True

    def _leave_open(self, snapshot: Digest) -> None:
        if snapshot not in self._left_open:
            self._left_open.add(snapshot)
            log.info("access.left_open", extra={"snapshot": snapshot.hex})

    def settle(self) -> int:
        """At a start: make every snapshot's directory right. How many had to be changed.

        Who the disk lets in, or holds a lease, is kept until the next sweep: the index may have been lost meanwhile.
        What cannot be made right is shut, and keeps nobody from the others.
        """
        changed = 0
        for row in self._index.query("SELECT digest, access FROM snapshot"):
            snapshot = Digest(row["digest"])
            try:
                with disk_errors(f"looking at who may enter the snapshot {snapshot.hex[:12]}"):
                    changed += self._settle(snapshot, Access.parse(row["access"]))
            except CachedError as error:  # Whoever asks for it will hear why.
                log.error("access.unsettled", extra={"snapshot": snapshot.hex, "why": error.message})
        return changed

    def _settle(self, snapshot: Digest, access: Access) -> bool:
        """Whether it had to be changed."""
        if self.everybody(access):
            right = mode(self._layout.snapshot(snapshot)) in (_READ_ENTER * 0o111, -1)
        else:
            self._keep_allowed(snapshot)
            right = self._is_shut_right(snapshot)
        if not right:
            self.apply(snapshot)
        return not right

    def _keep_allowed(self, snapshot: Digest) -> None:
        if inside := allowed(self._layout.snapshot(snapshot)):
            with self._index.transaction() as db:
                rows = [(snapshot.hex, uid) for uid in inside]
                db.executemany("INSERT OR IGNORE INTO entrant VALUES (?, ?, 0)", rows)

    def _is_shut_right(self, snapshot: Digest) -> bool:
        rows = self._index.query("SELECT uid FROM entrant WHERE snapshot = ?", (snapshot.hex,))
        path = self._layout.snapshot(snapshot)
        now = mode(path)
        return now == -1 or (now == _READ_ENTER * 0o110 and allowed(path) == {row["uid"] for row in rows})
