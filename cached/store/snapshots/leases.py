"""Leases, which are kernel locks. The daemon never acquires a shared one; it only checks which are held, and excludes
them to remove a snapshot.

Each user of a snapshot has a lock file of its own, `snapshots/<digest>.locks/<uid>`, that no other user can open. So no
user can keep another from leasing; the name of the file identifies the user, whatever process holds the lock by now;
and the number of snapshots that one user keeps from being evicted can be bounded.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
import stat
import threading
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from cached.errors import StoreDegraded
from cached.model import Digest
from cached.store.disk import disk_errors
from cached.store.layout import Layout
from cached.store.private import create, open_safely
from cached.store.snapshots.acl import allow
from cached.store.snapshots.directory_locks import DirectoryLocks
from cached.store.snapshots.locks import Held, held_files, look, names_in, pids, trying, uid_of, user_of

log = logging.getLogger("cached.store")

SHARED = "shared"  # The one file of all users where the file system cannot name them in an ACL.
BEFORE = "before"  # The manifest of layout 1, which was the lock file: a process that locked it still leases.
_NAME = re.compile(rf"[0-9]{{1,10}}|{SHARED}|{BEFORE}")
_READ = 4
FEW = 64  # So many snapshots are checked one by one; for more, the directory is listed first.


class Leases:
    """The leases of one root. `bound`: the number of snapshots that one user can keep from being evicted; 0 means all.
    Safe to use from several threads."""

    def __init__(self, layout: Layout, bound: int) -> None:
        self._layout, self._bound = layout, bound
        # While a snapshot's locks are excluded, it gets no new one. The first of a store's locks: see `Store`.
        self._changing = threading.RLock()
        self._directories = DirectoryLocks(layout, bound)
        self._unnamed: set[int | None] = _beyond_this_namespace()  # No ACL can name these; None: there are no ACLs.

    # Handing out.

    def file(self, snapshot: Digest, uid: int) -> str:
        """Return the path of the file that the user is to lock. Nothing is created."""
        return f"{self._layout.locks(snapshot)}/{SHARED if self._shares(uid) else uid}"

    def _shares(self, uid: int) -> bool:
        return not _ours(uid) and (uid in self._unnamed or None in self._unnamed)

    def make(self, snapshot: Digest, uid: int) -> str:
        """Return the path of `file`, which exists when this returns, unless the snapshot is gone."""
        with self._changing, disk_errors(f"making a lock file for the snapshot {snapshot.hex[:12]}"):
            path = self.file(snapshot, uid)
            if not os.path.exists(path) and os.path.exists(self._layout.manifest(snapshot)):
                make_folder(self._layout.locks(snapshot))
                path = self._make(snapshot, uid)
            return path

    def _make(self, snapshot: Digest, uid: int) -> str:
        """Create the user's lock file and return its path. Its user is allowed to open it before it receives its
        name."""
        fresh = self._layout.ingest / f"{snapshot.hex}.{secrets.token_hex(4)}.lock"
        os.close(create(fresh))
        try:
            if not _ours(uid) and not self._name(fresh, uid):
                fresh.chmod(0o444)
            path = self.file(snapshot, uid)
            if not os.path.exists(path):  # It may be the shared one.
                os.rename(fresh, path)
            return path
        finally:
            fresh.unlink(missing_ok=True)

    def _name(self, file: Path, uid: int) -> bool:
        """Allow the user, and no other, to open the file. Return False where an ACL cannot express that."""
        if self._shares(uid):
            return False
        try:
            allow(file, _READ, [uid])
        except StoreDegraded:
            self._unnamed.add(None)
        except OSError as error:
            if error.errno != errno.EINVAL:  # The user is not one of this user namespace.
                raise
            self._unnamed.add(uid)
        else:
            return True
        log.warning("lease.shared", extra={"root": str(self._layout.root), "uid": uid})
        return False

    def note(self, snapshot: Digest, uid: int) -> None:
        """Record that the user has just been given the path."""
        with contextlib.suppress(OSError):
            os.utime(self.file(snapshot, uid))

    # Checking.

    def of(self, snapshot: Digest) -> list[Held]:
        """Return the locks that are held on the snapshot; empty when nobody leases it."""
        return self._files(snapshot) + self._directories.of(snapshot)

    def of_all(self, snapshots: Iterable[Digest]) -> dict[Digest, list[Held]]:
        """Return the locks that are held on each of these snapshots. Those that nobody leases are left out."""
        asked = list(snapshots)
        found = self._all_files(asked)
        for snapshot in asked:
            if held := self._directories.of(snapshot):
                found[snapshot] = [*found.get(snapshot, []), *held]
        return found

    def _all_files(self, snapshots: Iterable[Digest]) -> dict[Digest, list[Held]]:
        """Return the held lock files of many snapshots. Of thousands, most may never have been handed out, and have no
        folder: one listing shows which have."""
        asked = list(snapshots)
        names = names_in(str(self._layout.snapshots)) if len(asked) > FEW else None
        if names is not None:
            there = {name.removesuffix(".locks") for name in names if name.endswith(".locks")}
            asked = [snapshot for snapshot in asked if snapshot.hex in there]
        return {snapshot: held for snapshot in asked if (held := self._files(snapshot))}

    def _files(self, snapshot: Digest) -> list[Held]:
        return held_files(str(self._layout.locks(snapshot)))

    def protected(self, snapshots: Iterable[Digest]) -> set[Digest]:
        """Return those of the snapshots, which are all of the root's, that a lease keeps from being evicted."""
        asked = set(snapshots)
        held = self._all_files(asked)
        of_users: dict[int, list[tuple[float, Digest]]] = {}
        for snapshot, files in held.items():
            for uid in {each.uid for each in files if each.uid is not None}:
                at = max(each.at for each in files if each.uid == uid)
                of_users.setdefault(uid, []).append((at, snapshot))
        beyond = {(uid, each) for uid, those in of_users.items() for each in self._beyond(uid, those)}
        kept = {snapshot for snapshot, files in held.items() if any((f.uid, snapshot) not in beyond for f in files)}
        return kept | (self._directories.kept() & asked)

    def _beyond(self, uid: int, held: Collection[tuple[float, Digest]]) -> set[Digest]:
        """Return the snapshots, of all that the user leases, that its leases do not keep: those beyond `bound`, which
        it was given longest ago."""
        if not self._bound or uid in (0, os.geteuid()):
            return set()
        newest = sorted(held, key=lambda each: (-each[0], each[1].hex))
        return {snapshot for _, snapshot in newest[self._bound :]}

    def _is_kept(self, snapshot: Digest, uid: int) -> bool:
        """Return True if the user's lease, which it has, keeps the snapshot from being evicted."""
        if not self._bound or uid in (0, os.geteuid()):
            return True
        held = []
        with disk_errors("looking at the leases"), os.scandir(self._layout.snapshots) as entries:
            for entry in entries:
                if entry.name.endswith(".locks") and (one := look(f"{entry.path}/{uid}", uid)):
                    held.append((one.at, Digest(entry.name.removesuffix(".locks"))))
        return snapshot not in self._beyond(uid, held)

    def users(self, snapshot: Digest, locks: dict[tuple[int, int], set[int]]) -> set[int] | None:
        """Return the users that lease the snapshot; None when one of them cannot be determined. `locks` are the
        `holders` of this moment."""
        found = self._directories.users(snapshot, locks)
        for held in self._files(snapshot):
            for uid in {held.uid} if held.uid is not None else {user_of(pid) for pid in pids(held, locks)}:
                if uid is None:
                    return None
                found.add(uid)
        return found

    # Removing.

    @contextlib.contextmanager
    def exclusive(self, snapshot: Digest) -> Iterator[bool]:
        """Yield True while nobody holds a lease that keeps the snapshot and nobody can acquire one; False when somebody
        holds one, or it cannot be determined. A snapshot that does not exist cannot be leased either: True."""
        with self._changing, contextlib.ExitStack() as opened:
            folder = str(self._layout.locks(snapshot))
            names = names_in(folder)
            free = names is not None and all(self._exclude(snapshot, f"{folder}/{name}", opened) for name in names)
            yield free and snapshot not in self._directories.kept()

    def _exclude(self, snapshot: Digest, file: str, opened: contextlib.ExitStack) -> bool:
        uid = uid_of(file)
        try:
            fd = open_safely(file, os.O_RDONLY)
            opened.callback(_close, fd)
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return True
            with trying:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return True
        except BlockingIOError:
            if uid is None or self._is_kept(snapshot, uid):
                return False
            log.warning("lease.unprotected", extra={"snapshot": snapshot.hex, "uid": uid, "bound": self._bound})
        except OSError as error:  # No descriptors, a disk that fails: nothing is removed that might be in use.
            log.warning("lease.unreadable", extra={"lock": file, "why": error.strerror})
            return False
        return True

    def drop(self, snapshot: Digest, uid: int) -> None:
        """Delete the user's lock file, unless it is held."""
        self._drop(f"{self._layout.locks(snapshot)}/{uid}")

    def tidy(self, snapshot: Digest, booted: float) -> list[str]:
        """Delete the lock files that nobody holds, at a start, and return the paths of files that are not lock files.
        The one of layout 1 (BEFORE) is deleted only after a boot (`booted`, in seconds since the epoch) since which
        nobody can have opened it."""
        folder = self._layout.locks(snapshot)
        folder.chmod(0o711)
        foreign = []
        for name in names_in(str(folder)) or []:
            file = folder / name
            if not _NAME.fullmatch(name) or not stat.S_ISREG((status := file.lstat()).st_mode):
                foreign.append(str(file))
            elif name != BEFORE or status.st_ctime < booted:
                self._drop(str(file))
        return foreign

    def _drop(self, file: str) -> None:
        """Delete the lock file, unless it is held. `_changing` is not acquired: the caller may hold other locks, after
        which it would be out of order."""
        with trying, contextlib.suppress(OSError):
            fd = open_safely(file, os.O_RDONLY)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Not a file that was created since this one was opened, if the snapshot was removed and fetched again.
                # This one keeps its name while it is locked.
                if os.path.samestat(os.fstat(fd), os.lstat(file)):
                    os.unlink(file)  # A process that has it open, and locks it now, sees st_nlink == 0 and retries.
            finally:
                os.close(fd)


def _ours(uid: int) -> bool:
    return uid == os.geteuid()


def _beyond_this_namespace() -> set[int | None]:
    """Return the uid that stands for all users unknown to our user namespace: in an ACL it would be none of them. Empty
    if the namespace knows every user, or if that cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        if Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]:
            return {int(Path("/proc/sys/kernel/overflowuid").read_text())}
    return set()


def make_folder(folder: Path) -> None:
    """Create a folder of lock files. A user that has a file in it can open that file, and cannot list the others."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if stat.S_IMODE(folder.lstat().st_mode) != 0o711:
        folder.chmod(0o711)


def _close(fd: int) -> None:
    with contextlib.suppress(OSError):  # Nothing was written; the lock is released anyway.
        os.close(fd)
