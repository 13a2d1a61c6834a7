"""Leases on the directories of snapshots, which are used where a root cannot be written to, so that no lock file is
made.

Any user that can enter a directory can lock it, and only the kernel can name its user, by a process that may be gone.
So only the locks that were held when the daemon started count: such a root cannot be repaired without a restart. The
locks of each user, and together those of unknown users, keep a bounded number of snapshots.
"""

from __future__ import annotations

import re
import stat

from cached.model import Digest
from cached.store.layout import Layout
from cached.store.snapshots.locks import UNTOLD, Held, holders, look, names_in, pids, user_of

_DIGEST = re.compile(r"[0-9a-f]{64}")  # A snapshot's name; a start removes anything else.


class DirectoryLocks:
    """Track the directory locks of one root. `bound` is the number of snapshots for which the locks of one user count;
    0 means all. Safe to use from several threads."""

    def __init__(self, layout: Layout, bound: int) -> None:
        self._layout, self._bound = layout, bound
        names = [name for name in names_in(str(layout.snapshots)) or [] if _DIGEST.fullmatch(name)]
        self._held: set[Digest] = {snapshot for name in names if self._look(snapshot := Digest(name))}

    def _look(self, snapshot: Digest) -> Held | None:
        held = look(str(self._layout.snapshot(snapshot)), None, stat.S_ISDIR)
        return None if held == UNTOLD else held  # No caller has received a path that cannot be opened.

    def of(self, snapshot: Digest) -> list[Held]:
        """Return the locks on the snapshot's directory. Once they are released, later ones do not count."""
        if snapshot not in self._held:
            return []
        held = self._look(snapshot)
        if held is None:
            self._held.discard(snapshot)
        return [held] if held else []

    def kept(self) -> set[Digest]:
        """Return the snapshots that such a lock keeps from being removed."""
        held = [(snapshot, each) for snapshot in sorted(self._held, key=str) for each in self.of(snapshot)]
        if not held or not self._bound:
            return {snapshot for snapshot, _ in held}
        locks, of_users = holders(), dict[int | None, list[Digest]]()
        for snapshot, each in held:
            for uid in {user_of(pid) for pid in pids(each, locks)}:
                of_users.setdefault(uid, []).append(snapshot)
        return {snapshot for those in of_users.values() for snapshot in those[: self._bound]}

    def users(self, snapshot: Digest, locks: dict[tuple[int, int], set[int]]) -> set[int]:
        """Return the users of the locks as far as `locks` (from `holders`) identifies them. The others do not keep
        access for ever by a lock."""
        found = {user_of(pid) for each in self.of(snapshot) for pid in pids(each, locks)}
        return {uid for uid in found if uid is not None}
