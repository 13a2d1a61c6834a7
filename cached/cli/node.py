"""Checks of the node itself, for `doctor`: the socket, the store's file system, and this process's environment."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sqlite3
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cached.cli.output import human_size


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `mend` says how to repair it; empty when there is nothing to do."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    mend: str = ""


def check_socket(path: Path) -> Check:
    """Check that this user can open the socket, and warn if everybody can."""
    try:
        mode = path.stat().st_mode
    except PermissionError:
        return Check("socket", "fail", f"This user may not enter {path.parent}.", _JOIN)
    except OSError as error:
        mend = "Start the daemon, or name its socket with --socket or CACHED_SOCKET."
        return Check("socket", "fail", f"There is no socket at {path}: {error.strerror}.", mend)
    if not stat.S_ISSOCK(mode):
        return Check(
            "socket", "fail", f"{path} is not a socket.", "Name the daemon's socket with --socket or CACHED_SOCKET."
        )
    shown = f"{path} has mode {stat.S_IMODE(mode):04o}"
    refused = _refused(path)
    if refused == errno.EACCES:
        return Check("socket", "fail", f"{shown}, which keeps this user out.", _JOIN)
    if refused:
        mend = "The daemon has gone: start it, `systemctl start cached`."
        return Check("socket", "fail", f"{shown}, but nobody listens: {os.strerror(refused)}.", mend)
    if mode & stat.S_IWOTH:
        mend = "Set socket_mode to '0660' and socket_group to the group of those who load models."
        return Check("socket", "warn", f"{shown}: every user of this node may read every cached model.", mend)
    return Check("socket", "ok", f"{shown}, and this user may use it.")


_JOIN = "Add this user to the socket's group (socket_group), and log in again."


def _refused(path: Path) -> int:
    """Return the errno with which a connection fails; 0 if it is accepted."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(2)
        try:
            connection.connect(str(path))
        except OSError as error:
            return error.errno or errno.ETIMEDOUT
    return 0


# The kernel's names. On these, flock may be emulated, links may fail, and reads cross the network again.
NETWORK = ("nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "glusterfs", "9p", "beegfs", "gpfs", "afs", "fuse.sshfs")
PASSING = ("tmpfs", "ramfs", "overlay")


def check_root(root: Path) -> Check:
    """Check that the store is on a local disk that outlives the container."""
    if not root.is_dir():
        return Check("root", "fail", f"{root} is not a directory that this user can see.", "Create it, or set root.")
    kind = filesystem(root)
    if kind in NETWORK or kind.startswith("fuse."):
        mend = "Put root on a local NVMe file system (ext4 or XFS)."
        return Check("root", "fail", f"{root} is on {kind}, a network or user-space file system.", mend)
    if kind in PASSING:
        mend = "Put root on a local NVMe file system (ext4 or XFS), mounted into the container if there is one."
        return Check("root", "warn", f"{root} is on {kind}, which does not outlive this machine or container.", mend)
    return Check("root", "ok", f"{root} is on {kind or 'a file system of unknown kind'}.")


def filesystem(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Return the kind of the file system that holds `path` (ext4, xfs, nfs4 …); empty if the kernel does not say."""
    found, kind = "", ""
    try:
        lines = mounts.read_text().splitlines()
        place = str(path.resolve())
    except OSError:
        return ""
    for line in lines:
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4].replace("\\040", " ").rstrip("/")
        # The last of equal mount points is on top.
        if (place == point or place.startswith(point + "/")) and len(point) >= len(found):
            found, kind = point, after.split(" ")[0]
    return kind


def check_flock(root: Path) -> Check:
    """Check that flock excludes on the root. Without that a leased model could be evicted."""
    try:
        first, second = (os.open(root, os.O_RDONLY | os.O_DIRECTORY) for _ in range(2))
    except OSError as error:
        return Check(
            "flock", "warn", f"It could not be tried on {root}: {error.strerror}.", "Run it as the daemon's user."
        )
    try:
        fcntl.flock(first, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return Check("flock", "ok", f"Locks exclude on {root}.")
    except OSError as error:
        return Check("flock", "fail", f"{root} does not lock: {error.strerror}.", "Put root on ext4 or XFS.")
    finally:
        os.close(first)
        os.close(second)
    return Check("flock", "fail", f"Two exclusive locks were given at once on {root}.", "Put root on ext4 or XFS.")


def check_acls(root: Path, enforced: bool = True) -> Check:
    """Check that the root's file system has POSIX ACLs. Without them no user can enter a snapshot that is not open to
    everybody (where access is `enforced`), and all users share the lock file of a model."""
    try:
        os.getxattr(root, "system.posix_acl_access")
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            lacks = f"The file system of {root} has no POSIX ACLs: any user can lock a model against the others"
            if not enforced:
                return Check("acls", "warn", f"{lacks}, and keep it from eviction.", "Mount it with ACLs.")
            mend = 'Mount it with ACLs, or set access = "node" if all who can reach the socket may read all models.'
            return Check("acls", "fail", f"{lacks}, and nobody gets one that is not open to everybody.", mend)
        if error.errno != errno.ENODATA:
            return Check("acls", "warn", f"It could not be tried on {root}: {error.strerror}.", "Run it as root.")
    return Check("acls", "ok", f"The file system of {root} has POSIX ACLs.")


def check_space(root: Path, status: Mapping[str, Any] | None) -> Check:
    """Check that the file system can hold the bytes that the limit promises."""
    try:
        volume = os.statvfs(root)
    except OSError as error:
        return Check("space", "warn", f"The file system of {root} cannot be asked: {error.strerror}.")
    free = volume.f_bavail * volume.f_frsize
    if status is None:
        return Check("space", "ok", f"{human_size(free)} are free on the file system of {root}.")
    limit, used, reserved = (int(status[name]) for name in ("limit", "used", "reserved"))
    shown = (
        f"{human_size(used + reserved)} of {human_size(limit)} are taken; the file system has {human_size(free)} free."
    )
    if volume.f_files and volume.f_favail == 0:
        return Check(
            "space", "fail", f"The file system of {root} has no inodes left.", "Remove files beside the store."
        )
    if used + reserved > limit:
        return Check("space", "warn", shown, "The store is over its limit: `cached gc`, or raise limit.")
    if free < limit - used - reserved:
        mend = "Something else fills this file system: free space beside the store, or lower limit."
        return Check("space", "warn", f"{shown} That is less than the limit promises.", mend)
    return Check("space", "ok", shown)


def check_credentials(environ: Mapping[str, str] = os.environ) -> Check:
    """Check if a Hub token would be sent with this user's requests. The token itself is never shown."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if environ.get(name):
            return Check("hub token", "ok", f"{name} is set and goes with this user's requests.")
    home = environ.get("HF_HOME") or os.path.join(os.path.expanduser("~"), ".cache", "huggingface")
    stored = environ.get("HF_TOKEN_PATH") or os.path.join(home, "token")
    if os.path.exists(stored):
        mend = f'For gated models: export HF_TOKEN="$(cat {stored})".'
        return Check("hub token", "warn", "A token is stored by `hf auth login`, but only HF_TOKEN is forwarded.", mend)
    return Check("hub token", "ok", "HF_TOKEN is not set: public models only, unless the daemon has a token.")


def check_sqlite(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> Check:
    """Report if this Python's SQLite has the WAL-reset bug (sqlite.org/wal.html#walresetbug). For information only."""
    shown = ".".join(map(str, version))
    if has_wal_reset_bug(version):
        return Check(
            "sqlite",
            "ok",
            f"SQLite {shown} has the WAL-reset bug; the daemon avoids it by writing through one connection.",
        )
    return Check("sqlite", "ok", f"SQLite {shown} is outside the range of the WAL-reset bug.")


def has_wal_reset_bug(version: tuple[int, ...]) -> bool:
    """Return True from 3.7.0 up to 3.51.2, except the branches that got the fix, in 3.44.6 and 3.50.7."""
    if version[:2] in ((3, 44), (3, 50)):
        return version < ((3, 44, 6) if version[1] == 44 else (3, 50, 7))
    return (3, 7, 0) <= version < (3, 51, 3)
