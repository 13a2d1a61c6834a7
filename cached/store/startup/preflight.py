"""Check that a directory is fit to be a root: owned and writable by this user alone, of a known layout, and not
somebody's home.

The checks change nothing. Each refusal is one sentence that names the path and the remedy.
"""

from __future__ import annotations

import os
import pwd
import re
import stat

from cached.errors import StoreDegraded
from cached.store.layout import Layout
from cached.store.private import open_safely

FORMAT = 2
_BEFORE = 1  # Manifests were the lock files, and every user could open the index and FORMAT: a start upgrades it.

# Names that a start can leave before FORMAT exists, and that mkfs leaves on a new disk.
_BEFORE_FORMAT = re.compile(
    r"FORMAT\..*|index\.db(-wal|-shm|-journal)?|blobs|snapshots|ingest|trash|quarantine|lost\+found"
)


def check(layout: Layout) -> None:
    """Raise StoreDegraded unless `layout.root` may be used, and OSError where the disk itself fails."""
    _check_directory(layout)
    check_format(layout)
    _check_folders(layout)


def _check_directory(layout: Layout) -> None:
    root, uid = layout.root, os.geteuid()
    try:
        status = root.stat()
    except FileNotFoundError:
        raise StoreDegraded(f"The root {root} is a symbolic link to nothing; mend it, or set another root.") from None
    if not stat.S_ISDIR(status.st_mode):
        raise StoreDegraded(f"The root {root} is not a directory; move it away, or set another root.")
    if status.st_uid != uid:
        raise StoreDegraded(
            f"The root {root} belongs to {_user(status.st_uid)}, and cached runs as {_user(uid)}: "
            f"`chown -R {uid} {root}`, or set another root."
        )
    if status.st_mode & stat.S_IWOTH:
        raise StoreDegraded(f"Every user of this node may write to the root {root}: `chmod o-w {root}`.")
    if not os.access(root, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        if os.statvfs(root).f_flag & os.ST_RDONLY:
            raise StoreDegraded(f"The file system of the root {root} is read-only; mount it to be written to.")
        raise StoreDegraded(f"cached, as {_user(uid)}, may not read and write the root {root}: `chmod u+rwx {root}`.")


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def check_format(layout: Layout) -> None:
    """Raise StoreDegraded unless FORMAT names a known layout, or there is no FORMAT and nothing foreign in the root."""
    try:
        mode = layout.format.lstat().st_mode
    except FileNotFoundError:
        _check_unused(layout)
        return
    if not stat.S_ISREG(mode):
        raise StoreDegraded(f"{layout.format} is not a regular file; if {layout.root} is cached's, {_write_format()}.")
    text = _text(layout)
    if text in (str(FORMAT), str(_BEFORE)):
        return
    if not text.isascii() or not text.isdecimal():
        raise StoreDegraded(
            f"{layout.format} says {text[:20]!r}, which is no layout version; if {layout.root} is cached's, "
            f"{_write_format()}."
        )
    raise StoreDegraded(
        f"The root {layout.root} has layout version {text[:20]}, and this cached knows {FORMAT}; "
        "use the version of cached that wrote it, or another root."
    )


def is_current(layout: Layout) -> bool:
    """Return whether FORMAT names the layout that this version writes."""
    return _text(layout) == str(FORMAT)


def _text(layout: Layout) -> str:
    with open(open_safely(layout.format, os.O_RDONLY), "rb") as file:
        return file.read(100).decode(errors="replace").strip()


def _write_format() -> str:
    return f"replace it by a file that holds {FORMAT}"


def _check_unused(layout: Layout) -> None:
    foreign = sorted(name for name in os.listdir(layout.root) if not _BEFORE_FORMAT.fullmatch(name))
    if foreign:
        raise StoreDegraded(
            f"The root {layout.root} is not cached's, and not empty (it holds {foreign[0][:80]!r}); set `root` to an "
            "empty directory, or to one that is not there yet."
        )


def _check_folders(layout: Layout) -> None:
    device = layout.root.stat().st_dev
    for folder in (layout.blobs, layout.snapshots, layout.ingest, layout.trash, layout.quarantine):
        try:
            status = folder.stat()
        except FileNotFoundError:
            if folder.is_symlink():
                raise StoreDegraded(f"{folder} is a symbolic link to nothing; remove it.") from None
            continue
        if not stat.S_ISDIR(status.st_mode):
            raise StoreDegraded(f"{folder} is not a directory; move it away.")
        if status.st_dev != device:
            raise StoreDegraded(
                f"{folder} is on another file system than {layout.root}; hard links need both on the same one."
            )
