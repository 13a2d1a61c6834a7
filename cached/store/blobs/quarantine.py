"""Damaged blobs that are kept for the operator to inspect, and because their good pieces need not be fetched again."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from dataclasses import dataclass

from cached.store.disk import delete_tree, disk_errors
from cached.store.layout import Layout

log = logging.getLogger("cached.store")


@dataclass(frozen=True, slots=True)
class Aside:
    """An entry of the quarantine. Unless it is `alone`, a snapshot still links it, and dropping it would free no
    space."""

    name: str
    bytes: int  # On the disk.
    alone: bool
    since: float

    @property
    def blob(self) -> str:
        """The hex digest that the blob should have; meaningless for the index and for anything else in quarantine."""
        return self.name[:64]


class Quarantine:
    def __init__(self, layout: Layout) -> None:
        self._folder = layout.quarantine

    def list(self) -> list[Aside]:
        """Return the entries, oldest first."""
        found: list[Aside] = []
        with disk_errors("looking into the quarantine"), os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # Dropped since it was listed.
                    status = entry.stat(follow_symlinks=False)
                    if not entry.name.endswith(".pieces"):
                        alone = stat.S_ISDIR(status.st_mode) or status.st_nlink == 1
                        found.append(Aside(entry.name, status.st_blocks * 512, alone, status.st_ctime))
        return sorted(found, key=lambda aside: aside.since)

    def drop(self, aside: Aside) -> None:
        """Delete the entry, and the record of its pieces."""
        path = self._folder / aside.name
        with disk_errors("emptying the quarantine"), contextlib.suppress(FileNotFoundError):
            delete_tree(path)
            path.with_name(f"{path.name}.pieces").unlink(missing_ok=True)
        log.info("quarantine.dropped", extra={"blob": aside.name[:80]})
