"""Access to the directories of snapshots: for everybody, or for the uids that proved that they may read the model.

The kernel enforces it with a POSIX ACL on the directory. The blobs themselves are behind a directory that only the
daemon may enter.
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
_LOOK_AGAIN = 1.0  # Seconds between checks whether a snapshot with the most users possible can take another.
_AS_IT_IS: list[int] = []  # Recognised by its identity: nothing is to be changed.


class Entrants:
    """Control access to snapshots' directories. Unless `enforced`, every snapshot is open to everybody; with
    `own_open`, so are those that the daemon's own credentials opened. Safe to use from several threads."""

    def __init__(self, layout: Layout, index: Index, leases: Leases, enforced: bool, own_open: bool) -> None:
        self._layout, self._index, self._leases = layout, index, leases
        self._open_kinds = {"open", "own"} if own_open else {"open"}
        self._enforced = enforced
        self._lock = threading.Lock()  # `Store` states the order of locks.
        self._left_open: set[Digest] = set()  # To be closed when their leases can be determined.
        self._told: dict[Digest, dict[int, float]] = {}  # Until when each user that received the path can use it.
        # Full snapshots: until when (monotonic) that is assumed, and the error message meanwhile.
        self._full: dict[Digest, tuple[float, str]] = {}
        self._telling = threading.Lock()  # A separate lock: a hit does not wait for the disk.

    def everybody(self, access: Access) -> bool:
        """Return whether the directory of a snapshot with this access is open to all users of the node."""
        return not self._enforced or access.kind in self._open_kinds

    def enter(self, snapshot: Digest, uid: int, until: float) -> None:
        """Grant the user access until at least `until` (seconds since the epoch). On an error no access is granted."""
        with self._lock:
            self._refuse_while_full(snapshot, uid)
            try:
                with self._index.transaction() as db:
                    db.execute(
                        "INSERT INTO entrant SELECT ?, ?, ? WHERE EXISTS (SELECT 1 FROM snapshot WHERE digest = ?) "
                        "ON CONFLICT DO UPDATE SET until = max(until, excluded.until)",
                        (snapshot.hex, uid, until, snapshot.hex),
                    )
                    # Before the row is visible, from which others conclude that the user can enter.
                    self._apply(snapshot, newcomer=uid)
            except BaseException:
                with contextlib.suppress(CachedError):
                    self._apply(snapshot)  # The disk may have applied half of it.
                raise

    def _refuse_while_full(self, snapshot: Digest, uid: int) -> None:
        """Raise TooManyUsers while the snapshot is known to be full: checking hundreds of lock files for each new user
        would be expensive."""
        until, why = self._full.get(snapshot, (0.0, ""))
        if time.monotonic() < until and not self._is_inside(snapshot, uid):
            raise TooManyUsers(why)

    def _is_inside(self, snapshot: Digest, uid: int) -> bool:
        """Return whether the user has a row, even an expired one: a user that was found to have access gets a row that
        has expired."""
        found = self._index.query("SELECT 1 FROM entrant WHERE snapshot = ? AND uid = ?", (snapshot.hex, uid))
        return bool(found)

    def told(self, snapshot: Digest, uid: int, until: float) -> None:
        """Record that the user is about to receive the path, and can use it up to `until` (seconds since the epoch)
        even if a snapshot that is open to everybody is closed meanwhile. Call this before checking whether it is open.
        For hits."""
        with self._telling:
            self._told.setdefault(snapshot, {})[uid] = until

    def until(self, snapshot: Digest, uid: int) -> float:
        """Return until when (seconds since the epoch) the user has access; 0 when it has none. For hits."""
        rows = self._index.hits.query("SELECT until FROM entrant WHERE snapshot = ? AND uid = ?", (snapshot.hex, uid))
        return float(rows[0]["until"]) if rows else 0.0

    def expire(self, snapshot: Digest, uid: int, until: float) -> None:
        """Limit the user's access to the time before `until` (seconds since the epoch); `sweep` revokes it then."""
        with self._index.transaction() as db:
            db.execute(
                "UPDATE entrant SET until = min(until, ?) WHERE snapshot = ? AND uid = ?", (until, snapshot.hex, uid)
            )

    def sweep(self, now: float) -> int:
        """Revoke the access of users whose time is over and that do not lease the snapshot; return their number. Try
        again to close snapshots that had to be left open. An error while revoking at one snapshot is raised after all
        have been processed."""
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
            for uid in uids:  # Unless it was granted access again meanwhile.
                db.execute("DELETE FROM entrant WHERE snapshot = ? AND uid = ? AND until < ?", (snapshot.hex, uid, now))
            self._apply(snapshot)  # On an error the rows stay, for the next sweep.
            for uid in uids:
                self._leases.drop(snapshot, uid)
            self._full.pop(snapshot, None)
        log.info("access.ended", extra={"snapshot": snapshot.hex, "uids": sorted(uids)})
        return len(uids)

    def stands_open(self, snapshot: Digest) -> bool:
        """Return whether the disk lets everybody enter. When the index has only just recorded it, the disk may not
        yet."""
        with disk_errors(f"looking at who may enter the snapshot {snapshot.hex[:12]}"):
            return mode(self._layout.snapshot(snapshot)) & _READ_ENTER == _READ_ENTER

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Prevent every change of access during the block."""
        with self._lock:
            yield

    def apply(self, snapshot: Digest) -> None:
        """Make the directory agree with the index. When that closes a directory that was open to everybody, users that
        lease the snapshot keep access; while these are not known, it is left open, and a later sweep closes it."""
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
        """Return the uids that may enter; None for everybody. Return _AS_IT_IS when the snapshot is gone, or has to be
        left open."""
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
        """Revoke the access of users that neither lease the snapshot nor received its path just now: they get access
        again on their next request. Choose those whose time is over, else an eighth of all, in the order in which their
        time ends. Return False when there are none."""
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
        with contextlib.suppress(FileNotFoundError):  # It is damaged, or being removed.
            try:
                allow(path, _READ_ENTER, uids)
            except (OSError, StoreDegraded, TooManyUsers):
                if uids is not None:
                    shut(path)  # Rather than open: users already named keep access.
                raise

    def _keep_inside(self, db: sqlite3.Connection, snapshot: Digest) -> bool:
        """Keep access for users of a snapshot that was open to everybody: those that lease it, or received its path
        just now, may enter until a sweep finds otherwise. Return False when it cannot be determined which users lease
        it."""
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
        """At a start, make every snapshot's directory agree with the index. Return how many had to be changed.

        Users that the disk lets in, or that hold a lease, keep access until the next sweep: the index may have been
        lost meanwhile. A directory that cannot be corrected is closed, and does not affect the others.
        """
        changed = 0
        for row in self._index.query("SELECT digest, access FROM snapshot"):
            snapshot = Digest(row["digest"])
            try:
                with disk_errors(f"looking at who may enter the snapshot {snapshot.hex[:12]}"):
                    changed += self._settle(snapshot, Access.parse(row["access"]))
            except CachedError as error:  # A caller that requests it gets the reason.
                log.error("access.unsettled", extra={"snapshot": snapshot.hex, "why": error.message})
        return changed

    def _settle(self, snapshot: Digest, access: Access) -> bool:
        """Make the snapshot's directory agree with the index. Return whether it had to be changed."""
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
