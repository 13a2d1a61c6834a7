"""Leases are kernel locks. The daemon never takes a shared one; it only asks who does, and excludes them to remove.

Each user of a snapshot has a lock file of its own, `snapshots/<digest>.locks/<uid>`, that no other user can open: so it
can keep nobody from leasing, its name says who leases, whatever process holds the lock by now, and what one user may
keep from being evicted can be bounded.
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
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from cached.errors import StoreDegraded
from cached.model import Digest
from cached.store.acl import allow
from cached.store.layout import Layout, disk_errors
from cached.store.private import create, open_safely

log = logging.getLogger("cached.store")

SHARED = "shared"  # The one file of all users where the file system cannot name them in an ACL.
BEFORE = "before"  # The manifest of layout 1, which was the lock file: whoever locked it then still leases.
_NAME = re.compile(rf"[0-9]{{1,10}}|{SHARED}|{BEFORE}")
_READ = 4

# One at a time in this process: a look whether a snapshot is leased must not look like a lease to another.
_trying = threading.RLock()


class Held(NamedTuple):
    """A lock file that somebody holds. `uid` is whose it is; None when its name does not say. `file` is its device and
    inode, zeros when it could not be looked at, and `at` when it was last handed out."""

    uid: int | None
    file: tuple[int, int]
    at: float = 0.0


UNTOLD = Held(None, (0, 0))  # Somebody may.


class Leases:
    """Of one root. `bound`: of how many snapshots one user can keep from being evicted; 0 is all. Safe to use from
    several threads."""

    def __init__(self, layout: Layout, bound: int) -> None:
        self._layout, self._bound = layout, bound
        self._changing = threading.RLock()  # While a snapshot's locks are excluded, it gets no new one.
        self._unnamed: set[int | None] = set()  # Users whom no ACL can name; None: there are no ACLs.

    # Handing out.

    def file(self, snapshot: Digest, uid: int) -> str:
        """What the user is to lock. Nothing is made."""
        return f"{self._layout.locks(snapshot)}/{SHARED if self._shares(uid) else uid}"

    def _shares(self, uid: int) -> bool:
        return not _ours(uid) and (uid in self._unnamed or None in self._unnamed)

    def make(self, snapshot: Digest, uid: int) -> str:
        """`file`, which is there when this returns, unless the snapshot has gone."""
        with self._changing, disk_errors(f"making a lock file for the snapshot {snapshot.hex[:12]}"):
            path = self.file(snapshot, uid)
            if not os.path.exists(path) and os.path.exists(self._layout.manifest(snapshot)):
                make_folder(self._layout.locks(snapshot))
                path = self._make(snapshot, uid)
            return path

    def _make(self, snapshot: Digest, uid: int) -> str:
        """Under its name it can be opened by its user: that is seen to before."""
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
        """Let the user, and it alone, open the file. False where that cannot be said."""
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
        """The user has just been handed the path."""
        with contextlib.suppress(OSError):
            os.utime(self.file(snapshot, uid))

    # Asking.

    def of(self, snapshot: Digest) -> list[Held]:
        """Which of its lock files are held: empty when nobody leases the snapshot."""
        return held_files(str(self._layout.locks(snapshot)))

    def protected(self, snapshots: Iterable[Digest]) -> set[Digest]:
        """Those of all the root's snapshots that a lease keeps."""
        held = {snapshot: files for snapshot in snapshots if (files := self.of(snapshot))}
        of_users: dict[int, list[tuple[float, Digest]]] = {}
        for snapshot, files in held.items():
            for uid in {each.uid for each in files if each.uid is not None}:
                at = max(each.at for each in files if each.uid == uid)
                of_users.setdefault(uid, []).append((at, snapshot))
        beyond = {(uid, each) for uid, those in of_users.items() for each in self._beyond(uid, those)}
        return {snapshot for snapshot, files in held.items() if any((f.uid, snapshot) not in beyond for f in files)}

    def _beyond(self, uid: int, held: Collection[tuple[float, Digest]]) -> set[Digest]:
        """Which of all that a user holds are not kept for it: those that it was handed longest ago."""
        if not self._bound or uid in (0, os.geteuid()):
            return set()
        newest = sorted(held, key=lambda each: (-each[0], each[1].hex))
        return {snapshot for _, snapshot in newest[self._bound :]}

    def _is_kept(self, snapshot: Digest, uid: int) -> bool:
        """Whether the user's lease, which it has, keeps the snapshot."""
        if not self._bound or uid in (0, os.geteuid()):
            return True
        held = []
        with disk_errors("looking at the leases"), os.scandir(self._layout.snapshots) as entries:
            for entry in entries:
                if entry.name.endswith(".locks") and (one := _look(f"{entry.path}/{uid}", uid)):
                    held.append((one.at, Digest(entry.name.removesuffix(".locks"))))
        return snapshot not in self._beyond(uid, held)

    def users(self, snapshot: Digest, locks: dict[tuple[int, int], set[int]]) -> set[int] | None:
        """Who leases it; None when it cannot be told of one. `locks` are the `holders` of this moment."""
        found: set[int] = set()
        for held in self.of(snapshot):
            for uid in {held.uid} if held.uid is not None else {_user(pid) for pid in pids(held, locks)}:
                if uid is None:
                    return None
                found.add(uid)
        return found

    # Removing.

    @contextlib.contextmanager
    def exclusive(self, snapshot: Digest) -> Iterator[bool]:
        """Yield True while nobody holds a lease that keeps it and nobody can take one; False when somebody does, or it
        cannot be told. What is not there cannot be leased either: True."""
        with self._changing, contextlib.ExitStack() as opened:
            folder = str(self._layout.locks(snapshot))
            names = _names(folder)
            free = names is not None and all(self._exclude(snapshot, f"{folder}/{name}", opened) for name in names)
            yield free

    def _exclude(self, snapshot: Digest, file: str, opened: contextlib.ExitStack) -> bool:
        uid = _uid(file)
        try:
            fd = open_safely(file, os.O_RDONLY)
            opened.callback(_close, fd)
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return True
            with _trying:
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
        """The user's lock file goes, unless it is held."""
        self._drop(f"{self._layout.locks(snapshot)}/{uid}")

    def tidy(self, snapshot: Digest, booted: float) -> None:
        """At a start: remove what nobody holds. Of the lock of before, what was so since before the boot."""
        folder = self._layout.locks(snapshot)
        folder.chmod(0o711)
        for name in _names(str(folder)) or []:
            file = folder / name
            if _NAME.fullmatch(name) and (name != BEFORE or file.lstat().st_ctime < booted):
                self._drop(str(file))
        with contextlib.suppress(OSError):  # Not while something is in it.
            folder.rmdir()

    def _drop(self, file: str) -> None:
        with self._changing, _trying, contextlib.suppress(OSError):
            fd = open_safely(file, os.O_RDONLY)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(file)  # Who has it open, and locks it now, sees st_nlink == 0 and asks again.
            finally:
                os.close(fd)


def held_files(folder: str) -> list[Held]:
    """Those in a folder of lock files. Plain calls, because a listing asks of thousands."""
    names, found = _names(folder), []
    if names is None:
        return [UNTOLD]
    for name in names:
        file = f"{folder}/{name}"
        if held := _look(file, _uid(file)):
            found.append(held)
    return found


def _look(file: str, uid: int | None) -> Held | None:
    """None when nobody holds it."""
    fd, status = -1, None
    try:
        with _trying:
            try:
                fd = open_safely(file, os.O_RDONLY)
                status = os.fstat(fd)
                if stat.S_ISREG(status.st_mode):
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            finally:
                if fd >= 0:
                    os.close(fd)
    except FileNotFoundError:
        return None
    except OSError as error:
        if status is None or not isinstance(error, BlockingIOError):
            log.warning("lease.unreadable", extra={"lock": file, "why": error.strerror})
            return UNTOLD
        return Held(uid, (status.st_dev, status.st_ino), status.st_mtime)
    return None


def _names(folder: str) -> list[str] | None:
    """Of what lies in the folder; None where it cannot be read."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        log.warning("lease.unreadable", extra={"lock": folder, "why": error.strerror})
        return None


def _uid(file: str) -> int | None:
    name = file.rpartition("/")[2]
    return int(name) if name.isdecimal() else None


def _user(pid: int) -> int | None:
    """None for a process that cannot be seen; of one that has ended, a fork may go on holding the lock."""
    try:
        return os.stat(f"/proc/{pid}").st_uid if pid > 0 else None
    except (FileNotFoundError, ProcessLookupError):
        return None


def _ours(uid: int) -> bool:
    return uid == os.geteuid()


def make_folder(folder: Path) -> None:
    """Whoever has a file in it can open that, and see no others."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if stat.S_IMODE(folder.lstat().st_mode) != 0o711:
        folder.chmod(0o711)


def _close(fd: int) -> None:
    with contextlib.suppress(OSError):  # Nothing was written; the lock is gone all the same.
        os.close(fd)


def booted() -> float:
    """When this node was started, in seconds since the epoch; the clock may have been set by a little since."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) - 1.0


def holders() -> dict[tuple[int, int], set[int]]:
    """Pids that hold an flock, by (device, inode). From /proc/locks; empty where it cannot be read.

    /proc/locks names the device of the superblock, which on btrfs and overlays differs from st_dev: so each inode is
    there under device 0 as well. A pid is the one that took the lock, as seen from this pid namespace; 0 or -1 stands
    for one outside it.
    """
    found: dict[tuple[int, int], set[int]] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.replace("->", "").split()
            if len(words) >= 6 and words[1] == "FLOCK":
                major, minor, inode = words[5].split(":")
                device = os.makedev(int(major, 16), int(minor, 16))
                for key in ((device, int(inode)), (0, int(inode))):
                    found.setdefault(key, set()).add(int(words[4]))
    return found


def pids(held: Held, locks: dict[tuple[int, int], set[int]]) -> set[int]:
    """Who holds it, of `holders`; {0} when that does not say."""
    return locks.get(held.file) or locks.get((0, held.file[1])) or {0}
