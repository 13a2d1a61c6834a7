"""POSIX ACLs of files and directories, as bytes of an extended attribute: so few need no library."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

from cached.errors import StoreDegraded, TooManyUsers

ACL = "system.posix_acl_access"
_HEADER, _ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
_VERSION = 2
_OWNER, _USER, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x10, 0x20  # linux/posix_acl.h
_NOBODY_IN_PARTICULAR = 0xFFFFFFFF


def allow(path: Path, right: int, uids: Iterable[int] | None) -> None:
    """Grant `right` (4 to read, 5 to read and enter) to the owner and these users alone; to everybody when `uids` is
    None.

    On an error nothing has changed, except that where there are no ACLs the path is closed to all but its owner and
    StoreDegraded is raised. Raise TooManyUsers when the file system takes no ACL of that length, though it has space.
    """
    if uids is None:
        try:
            os.removexattr(path, ACL)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                raise
        path.chmod(right * 0o111)
        return
    users = [_ENTRY.pack(_USER, right, uid) for uid in uids]
    if not users:
        # Only the owner. An ACL is replaced, not removed: its old mask would become the group's right.
        users = [_ENTRY.pack(_USER, 0, 0)]
    entries = [
        _ENTRY.pack(_OWNER, right, _NOBODY_IN_PARTICULAR),
        *users,
        _ENTRY.pack(_GROUP, 0, _NOBODY_IN_PARTICULAR),
        _ENTRY.pack(_MASK, right, _NOBODY_IN_PARTICULAR),
        _ENTRY.pack(_OTHER, 0, _NOBODY_IN_PARTICULAR),
    ]
    try:
        os.setxattr(path, ACL, _HEADER.pack(_VERSION) + b"".join(entries))
    except OSError as error:
        if _is_too_long(path, error, len(users)):
            raise TooManyUsers(
                f"{len(users) - 1} users may enter the snapshot {path.name[:12]} and use it at this moment, and its "
                "file system can name no more; try again when some have ended."
            ) from None
        if error.errno != errno.EOPNOTSUPP:
            raise
        shut(path)
        raise StoreDegraded(
            f"The file system of {path.parent} has no POSIX ACLs, so nobody can be let into models that are not open "
            "to everybody: mount it with them, or set access = 'node'."
        ) from None


_NEVER_TOO_MANY = 16


def _is_too_long(path: Path, error: OSError, users: int) -> bool:
    """Return whether the ACL is too long. ext4 keeps an ACL in one block, and reports a longer one (503 users) as a
    full disk."""
    if error.errno == errno.ENOSPC and users > _NEVER_TOO_MANY:
        system = os.statvfs(path)
        return system.f_bavail > 0 and (system.f_favail > 0 or not system.f_files)
    return error.errno == errno.E2BIG


def allowed(path: Path) -> set[int]:
    """Return the users to which the path's ACL grants a right."""
    entries = _ENTRY.iter_unpack((_raw(path) or b"")[_HEADER.size :])
    return {who for tag, right, who in entries if tag == _USER and right}


def shut(path: Path) -> None:
    """Close the path to all but the owner and the users that an ACL names."""
    path.chmod(mode(path) & (0o500 if _raw(path) is None else 0o550))  # The group's bits are an ACL's mask.


def close(path: Path, right: int) -> None:
    """Leave the file to its owner alone, with this mode. Users that an ACL names lose access no later than the
    others."""
    try:
        os.removexattr(path, ACL)  # Its mask stays, as the group's right.
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise
    path.chmod(right)


def mode(path: Path) -> int:
    """Return the path's permission bits; -1 when it does not exist."""
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except FileNotFoundError:
        return -1


def _raw(path: Path) -> bytes | None:
    try:
        return os.getxattr(path, ACL)
    except OSError:
        return None
