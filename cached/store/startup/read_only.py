"""A root on a file system that has become read-only: its snapshots can still be served, and nothing else can be
done."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

from cached.errors import StoreDegraded
from cached.model import Digest
from cached.store.index.index import Index
from cached.store.layout import Layout
from cached.store.snapshots.snapshots import Snapshots

log = logging.getLogger("cached.store")


def read_only(root: Path) -> bool:
    """Return whether the root's file system is mounted read-only; False when it cannot be queried."""
    try:
        return bool(os.statvfs(root).f_flag & os.ST_RDONLY)
    except OSError:
        return False


class FrozenIndex(Index):
    """A copy of the index in a temporary directory, deleted by `close`: SQLite has to write to recover what its log
    holds."""

    def __init__(self, layout: Layout) -> None:
        """Copy and open the index. Raise StoreDegraded when there is none or it cannot be read: it would have to be
        rebuilt."""
        self._folder = Path(tempfile.mkdtemp(prefix="cached-index-"))
        try:
            for suffix in ("", "-wal"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(f"{layout.index}{suffix}", self._folder / f"index.db{suffix}")
            if not (self._folder / "index.db").exists():
                raise StoreDegraded(f"The root {layout.root} is read-only and has no index; mount it to be written to.")
            super().__init__(self._folder / "index.db")
        except (OSError, sqlite3.DatabaseError) as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            what = f"The root {layout.root} is read-only, and its index cannot be read: {error}"
            raise StoreDegraded(f"{what}; mount it to be written to.") from error
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def close(self) -> None:
        super().close()
        shutil.rmtree(self._folder, ignore_errors=True)


def take_out_broken(index: Index, snapshots: Snapshots) -> None:
    """Mark snapshots that are not intact as damaged, so that they are not served: nothing can be repaired here."""
    for row in index.query("SELECT digest FROM snapshot WHERE state = 'ready'"):
        digest = Digest(row["digest"])
        read = snapshots.read(digest)
        if read is None or not snapshots.intact(read[0]):
            log.error("snapshot.broken", extra={"digest": digest.hex})
            index.mark_damaged(digest)
