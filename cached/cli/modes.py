"""Check modes and owners below a root, for `doctor`: other users must not open files that are the daemon's alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from cached.cli.node import Check

LOOKED_AT = 10_000  # Names that are checked at most: a store may have a million.
_INDEX = ("index.db", "index.db-wal", "index.db-shm", "index.db-journal")
_ALONE = ("blobs", "ingest", "trash", "quarantine")


def check_modes(root: Path) -> Check:
    """Check that all files below the root are the daemon's, and that others can open only models and their own lock
    files."""
    names = islice(_names(root), LOOKED_AT)
    try:
        owner = root.stat().st_uid
        wrong = [f"{path.relative_to(root)} {what}" for path, others in names if (what := _wrong(path, owner, others))]
    except PermissionError:
        return Check("modes", "warn", f"This user may not look below {root}.", "Run it as the daemon's user.")
    except OSError as error:
        return Check("modes", "warn", f"It could not be looked at below {root}: {error.strerror}.", "Check the disk.")
    if not wrong:
        return Check("modes", "ok", f"What is the daemon's alone below {root}, nobody else can open.")
    more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    mend = f"Restart the daemon, which mends modes; for owners: `chown -R {owner} {root}`."
    return Check("modes", "fail", f"Below {root}, {', '.join(wrong[:3])}{more}.", mend)


def _names(root: Path) -> Iterator[tuple[Path, int]]:
    """Yield each path with the mode bits that others may have there, including the group: with an ACL the group's bits
    are its mask."""
    yield root, 0o055
    for name in ("FORMAT", *_INDEX, *_ALONE):
        yield root / name, 0o000
    snapshots = root / "snapshots"
    yield snapshots, 0o011
    if not os.access(snapshots, os.R_OK):
        return
    for name in os.listdir(snapshots):
        path = snapshots / name
        yield path, 0o011 if name.endswith(".locks") else 0o000 if name.endswith(".json") else 0o055
        if name.endswith(".locks") and os.access(path, os.R_OK):
            yield from ((path / file, 0o044 if file == "shared" else 0o040) for file in os.listdir(path))


def _wrong(path: Path, owner: int, others: int) -> str:
    """Return the problem with this path; empty when there is none, or the path does not exist."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return ""
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != owner:
        return f"belongs to user {status.st_uid}"
    if not stat.S_ISLNK(status.st_mode) and mode & 0o077 & ~others:
        return f"has mode {mode:04o}"
    return ""
