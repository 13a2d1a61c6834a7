"""The claim on a root: its folders, and the proof that one daemon alone may use it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from cached.errors import StoreDegraded
from cached.store import fitness
from cached.store.layout import Layout, fsync_directory


class RootLock:
    """This process's claim on the root: an exclusive flock on FORMAT, kept until close or death."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def take(cls, layout: Layout) -> RootLock:
        """Create what is missing and claim the root.

        StoreDegraded when it is not fit to be one (see fitness), belongs to a running daemon, or lies on a file system
        where flock does not exclude. Nothing has been changed in a directory that is not ours.
        """
        with _refusing(f"Cannot write to the root {layout.root}", "mend its permissions"):
            _make(layout.root)
            fitness.check(layout)
            _create(layout)
            return cls(_claimed(layout, os.open(layout.format, os.O_RDWR | os.O_CLOEXEC)))

    @classmethod
    def hold(cls, layout: Layout) -> RootLock:
        """Claim a root that cannot be written to. StoreDegraded as in `take`, as far as reading tells."""
        with _refusing(f"Cannot read the root {layout.root}", "check the disk"):
            fitness.check_format(layout)
            return cls(_claimed(layout, os.open(layout.format, os.O_RDONLY | os.O_CLOEXEC)))

    def close(self) -> None:
        """Give it up; once more changes nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@contextlib.contextmanager
def _refusing(what: str, mend: str) -> Iterator[None]:
    """What the disk says, as a StoreDegraded."""
    try:
        yield
    except OSError as error:
        raise StoreDegraded(f"{what}: {error.strerror or error}; {mend}.") from error


def _claimed(layout: Layout, fd: int) -> int:
    """The descriptor, once its lock is ours; closed when it cannot be."""
    try:
        _claim(layout, fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _make(root: Path) -> None:
    if not os.path.lexists(root):
        root.mkdir(parents=True)
        root.chmod(0o755)  # Whatever the umask: callers reach their snapshots through it.


def _create(layout: Layout) -> None:
    if not layout.format.exists():
        temporary = layout.root / f"FORMAT.{os.getpid()}"
        with temporary.open("w") as file:
            file.write(f"{fitness.FORMAT}\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, layout.format)  # Unlike rename, never replaces a file that a running daemon has locked.
        temporary.unlink(missing_ok=True)
    for private in (layout.blobs, layout.ingest, layout.trash, layout.quarantine):
        private.mkdir(exist_ok=True)
        private.chmod(0o700)
    layout.snapshots.mkdir(exist_ok=True)
    layout.snapshots.chmod(0o711)  # Its names are the digests of what is here: not everybody's to list.
    for prefix in range(256):
        _make_folder(layout, layout.blobs / f"{prefix:02x}")
    for directory in (layout.blobs, layout.root):
        fsync_directory(directory)


def _make_folder(layout: Layout, folder: Path) -> None:
    try:
        folder.mkdir()
    except FileExistsError:
        if folder.is_symlink() or not folder.is_dir():
            folder.rename(layout.quarantine / f"{folder.name}.{secrets.token_hex(4)}")
            folder.mkdir()


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
