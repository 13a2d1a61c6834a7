"""The claim on a root, which one daemon alone may use, and the creation of the root's folders.

The claim is an exclusive flock on FORMAT, which only the daemon can open. Where others can open it (layout 1, or an
operator's chmod) a lock on it proves nothing. Then a new file takes its place, unless a daemon of that layout is
running.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from cached.errors import StoreDegraded
from cached.store import private
from cached.store.blobs.piece_writer import write_all
from cached.store.disk import fsync_directory
from cached.store.layout import Layout
from cached.store.startup import preflight
from cached.store.startup.upgrade import from_layout_1

log = logging.getLogger("cached.store")


class RootLock:
    """This process's claim on the root: an exclusive flock on FORMAT, kept until `close` or the end of the process."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def take(cls, layout: Layout) -> RootLock:
        """Claim the root, then create the missing folders.

        Raise StoreDegraded when the root is not fit to be one (see `preflight`), is claimed by a running daemon, or is
        on a file system where flock does not exclude. Nothing is changed in a directory that is not ours.
        """
        with _refusing(f"Cannot write to the root {layout.root}", "mend its permissions"):
            _make(layout.root)
            preflight.check(layout)
            fd = _claimed(layout)
            try:
                _create(layout)
            except BaseException:
                os.close(fd)
                raise
            return cls(fd)

    @classmethod
    def hold(cls, layout: Layout) -> RootLock:
        """Claim a root that cannot be written to. Raise StoreDegraded as `take` does, as far as reading can tell."""
        with _refusing(f"Cannot read the root {layout.root}", "check the disk"):
            preflight.check_format(layout)
            fd = private.open_safely(layout.format, os.O_RDONLY)
            try:
                if not _locked(layout, fd) and not _held_by_strangers(layout):
                    raise _in_use(layout)
            except BaseException:
                os.close(fd)
                raise
            return cls(fd)

    def close(self) -> None:
        """Release the claim. A second call changes nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@contextlib.contextmanager
def _refusing(what: str, mend: str) -> Iterator[None]:
    """Translate OSError into StoreDegraded; `mend` is the remedy in its message."""
    try:
        yield
    except OSError as error:
        raise StoreDegraded(f"{what}: {error.strerror or error}; {mend}.") from error


def _make(root: Path) -> None:
    if not os.path.lexists(root):
        root.mkdir(parents=True)
        root.chmod(0o755)  # Independent of the umask: callers reach their snapshots through it.


def _claimed(layout: Layout) -> int:
    """Lock FORMAT and return its descriptor. Raise StoreDegraded when another daemon has locked it."""
    while True:
        there = _status(layout.format)
        if there is not None and not private.exposed(there) and preflight.is_current(layout):
            fd = _claim(layout)
        else:
            fd = _claim_anew(layout, there)
        if fd is not None:
            return fd


def _claim(layout: Layout) -> int | None:
    """Lock the existing FORMAT and return its descriptor; None when it has been replaced meanwhile."""

    def still_there(fd: int) -> bool:
        _require_exclusion(layout, layout.format)
        return _same(os.fstat(fd), _status(layout.format))

    return _claimed_if(layout, private.open_safely(layout.format, os.O_RDWR), still_there)


def _claim_anew(layout: Layout, there: os.stat_result | None) -> int | None:
    """Replace FORMAT, whose status was `there`, by a new file that we have locked. Return its descriptor; None when
    FORMAT has changed meanwhile.

    Two starts that try this exclude each other by the lock on the new file, which has one name.
    """

    def put_in_place(fd: int) -> bool:
        return _same(os.fstat(fd), _status(layout.next_format)) and _put_in_place(layout, fd, there)

    return _claimed_if(layout, _open_next(layout), put_in_place)


def _claimed_if(layout: Layout, fd: int, holds: Callable[[int], bool]) -> int | None:
    """Lock `fd` and return it if `holds(fd)` is true then; else close it and return None. Raise StoreDegraded when
    another process has locked it."""
    try:
        if not _locked(layout, fd):
            raise _in_use(layout)
        if holds(fd):
            return fd
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _put_in_place(layout: Layout, fd: int, there: os.stat_result | None) -> bool:
    """Rename the locked file to FORMAT. Return False, and leave nothing of it, when FORMAT is no longer `there`."""
    try:
        _require_exclusion(layout, layout.next_format)
        with contextlib.nullcontext() if there is None else _without_a_daemon_of_before(layout):
            if _same(there, _status(layout.format)):
                if there is not None and not preflight.is_current(layout):
                    from_layout_1(layout)  # If it is killed, any daemon can start again, even one of layout 1.
                os.ftruncate(fd, 0)
                write_all(fd, memoryview(f"{preflight.FORMAT}\n".encode()), 0)
                os.fsync(fd)
                os.rename(layout.next_format, layout.format)
                fsync_directory(layout.root)
                return True
        return False
    finally:
        if _same(os.fstat(fd), _status(layout.next_format)):  # We hold its lock, so no other process uses it.
            layout.next_format.unlink()


def _open_next(layout: Layout) -> int:
    """Open FORMAT.next, which a killed start may have left, or create it. Return its descriptor."""
    while True:
        with contextlib.suppress(FileExistsError):
            return private.create(layout.next_format)
        with contextlib.suppress(FileNotFoundError):
            there = layout.next_format.lstat()
            if stat.S_ISREG(there.st_mode) and not private.exposed(there):
                return private.open_safely(layout.next_format, os.O_RDWR)
            layout.next_format.unlink()


@contextlib.contextmanager
def _without_a_daemon_of_before(layout: Layout) -> Iterator[None]:
    """Prevent any daemon of layout 1 from starting during the block. Raise StoreDegraded when one is running."""
    fd = private.open_safely(layout.format, os.O_RDWR)
    try:
        locked = _locked(layout, fd)
        if not locked:
            os.close(fd)
            fd = -1
            if not _held_by_strangers(layout):
                raise _in_use(layout)
        yield
    finally:
        if fd >= 0:
            os.close(fd)


def _held_by_strangers(layout: Layout) -> bool:
    """Return whether the processes that have locked FORMAT can only read it; every daemon of layout 1 has it open for
    writing.

    The caller must not have it open for writing.
    """
    if not private.exposed(layout.format.lstat()) or private.is_open_for_writing(layout.format):
        return False
    log.warning("root.locked_by_strangers", extra={"root": str(layout.root)})
    return True


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _same(one: os.stat_result | None, other: os.stat_result | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def _create(layout: Layout) -> None:
    _shut_to_its_group(layout.root)
    for folder in (layout.blobs, layout.ingest, layout.trash, layout.quarantine):
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
    layout.snapshots.mkdir(exist_ok=True)
    layout.snapshots.chmod(0o711)  # Its names are the digests of cached models, which not every user may list.
    for prefix in range(256):
        _make_folder(layout, layout.blobs / f"{prefix:02x}")
    for directory in (layout.blobs, layout.root):
        fsync_directory(directory)


def _shut_to_its_group(root: Path) -> None:
    """Remove the group's permission to write: the daemon's group is that of its socket, so its members are callers."""
    mode = stat.S_IMODE(root.stat().st_mode)
    if mode & stat.S_IWGRP:
        root.chmod(mode & ~stat.S_IWGRP)
        log.warning("root.closed", extra={"file": str(root)})


def _make_folder(layout: Layout, folder: Path) -> None:
    try:
        folder.mkdir()
    except FileExistsError:
        if folder.is_symlink() or not folder.is_dir():
            folder.rename(layout.quarantine / f"{folder.name}.{secrets.token_hex(4)}")
            folder.mkdir()


def _in_use(layout: Layout) -> StoreDegraded:
    return StoreDegraded(f"Another cached daemon is using {layout.root}; stop it, or give this one another root.")


def _locked(layout: Layout, fd: int) -> bool:
    """Try to lock `fd` and return whether the lock is ours; False when another process has it. Raise StoreDegraded when
    the file system does not support flock."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StoreDegraded(f"The file system of {layout.root} does not support flock ({error.strerror}).") from error
    return True


def _require_exclusion(layout: Layout, path: Path) -> None:
    """Raise StoreDegraded unless a second open of `path`, which we have locked, is refused the lock: no-op locks would
    grant it."""
    fd = private.open_safely(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    finally:
        os.close(fd)
    raise StoreDegraded(
        f"flock does not exclude on the file system of {layout.root}, so leases could not be kept; "
        "put the root on a local disk."
    )
