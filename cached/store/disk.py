"""The translation of disk errors, and the few disk operations that every room of the store uses."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from cached.errors import NoSpace, StoreDegraded

_FULL = (errno.ENOSPC, errno.EDQUOT)
# The process, and not the disk, ran out of something: this is temporary.
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EAGAIN, errno.ENAMETOOLONG)


class disk_errors:
    """Translate OSError: a full disk becomes NoSpace, everything else StoreDegraded, which is `lasting` unless the
    process ran out of something.

    A class, because it is entered for every slice of a transfer, and a generator takes five times as long.
    """

    __slots__ = ("_doing",)

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError):
            return
        if error.errno in _FULL:
            raise NoSpace(f"The disk filled up while {self._doing}; free some space or lower `limit`.") from error
        reason = error.strerror or str(error)
        if error.errno in _PASSING:
            raise StoreDegraded(f"The store failed while {self._doing}: {reason}; check the node's limits.") from error
        failure = StoreDegraded(f"The store failed while {self._doing}: {reason}. Check the disk, then restart cached.")
        failure.lasting = True
        raise failure from error


def fsync_directory(path: Path | str) -> None:
    """Make renames in `path` durable: power loss can undo a rename whose directory was not synced."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def delete_tree(path: Path) -> None:
    """Delete a blob, or a snapshot whose directories are read-only, after it was moved into the trash."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    path.chmod(0o700)
    for folder, names, _ in os.walk(path):  # Outer ones first: a folder must be accessible before it is walked.
        for name in names:
            inner = os.path.join(folder, name)
            if not os.path.islink(inner):
                os.chmod(inner, 0o700)
    shutil.rmtree(path)
