"""The root directory: its folders, its format, and the proof that one daemon alone may use it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from cached.errors import NoSpace, StoreDegraded
from cached.model import Digest

FORMAT = 1
_FULL = (errno.ENOSPC, errno.EDQUOT)


class disk_errors:
    """Translate what the disk says: full becomes NoSpace, everything else StoreDegraded.

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
        raise StoreDegraded(
            f"The store failed while {self._doing}: {reason}. Check the disk, then restart cached."
        ) from error


def fsync_directory(path: Path) -> None:
    """Make renames in `path` durable: power loss can undo a rename whose directory was not synced."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Layout:
    """Where everything lies below a root. Pure functions of names; no I/O."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.format = root / "FORMAT"
        self.index = root / "index.db"
        self.blobs = root / "blobs"
        self.snapshots = root / "snapshots"
        self.ingest = root / "ingest"
        self.trash = root / "trash"
        self.quarantine = root / "quarantine"

    def blob(self, digest: Digest) -> Path:
        return self.blobs / digest.hex[:2] / digest.hex

    def snapshot(self, digest: Digest) -> Path:
        return self.snapshots / digest.hex

    def lock(self, digest: Digest) -> Path:
        """The snapshot's manifest, which is its lock file too."""
        return self.snapshots / f"{digest.hex}.json"


class RootLock:
    """This process's claim on the root: an exclusive flock on FORMAT, kept until close or death."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def take(cls, layout: Layout) -> RootLock:
        """Create what is missing and claim the root.

        StoreDegraded when it cannot be written, is of a newer format, belongs to a running daemon, or lies on a
        file system where flock does not exclude.
        """
        try:
            _create(layout)
            fd = os.open(layout.format, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            reason = error.strerror or str(error)
            raise StoreDegraded(f"Cannot write to the root {layout.root}: {reason}; mend its permissions.") from error
        try:
            _claim(layout, fd)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd)

    def close(self) -> None:
        os.close(self.fd)


def _create(layout: Layout) -> None:
    if not layout.root.exists():
        layout.root.mkdir(parents=True)
        layout.root.chmod(0o755)  # Whatever the umask: callers reach their snapshots through it.
    if not layout.format.exists():
        temporary = layout.root / f"FORMAT.{os.getpid()}"
        temporary.write_text(f"{FORMAT}\n")
        with contextlib.suppress(FileExistsError):
            os.link(temporary, layout.format)  # Unlike rename, never replaces a file that a running daemon has locked.
        temporary.unlink()
    for private in (layout.blobs, layout.ingest, layout.trash, layout.quarantine):
        private.mkdir(exist_ok=True)
        private.chmod(0o700)
    layout.snapshots.mkdir(exist_ok=True)
    layout.snapshots.chmod(0o755)
    for prefix in range(256):
        (layout.blobs / f"{prefix:02x}").mkdir(exist_ok=True)
    for directory in (layout.blobs, layout.root):
        fsync_directory(directory)


def _claim(layout: Layout, fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StoreDegraded(
            f"Another cached daemon is using {layout.root}; stop it, or give this one another root."
        ) from None
    except OSError as error:
        raise StoreDegraded(f"The file system of {layout.root} does not support flock ({error.strerror}).") from error
    if not _excludes(layout.format):
        raise StoreDegraded(
            f"flock does not exclude on the file system of {layout.root}, so leases could not be kept; "
            "put the root on a local disk."
        )
    text = layout.format.read_text().strip()
    if text != str(FORMAT):
        raise StoreDegraded(
            f"The root {layout.root} has layout version {text[:20]!r}, and this cached knows {FORMAT}; "
            "use the version of cached that wrote it, or another root."
        )


def _excludes(path: Path) -> bool:
    """Whether a second opening of `path`, already locked by us, is refused the lock (no-op locks would grant it)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
