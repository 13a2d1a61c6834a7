"""Noticing when somebody else changes what is published: a file written to, removed or replaced behind our back.

The kernel tells (inotify, through watchdog), so that a hit need not look at every file. It is a tripwire, not a proof:
`verify` is the proof.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from watchdog.events import FileClosedEvent, FileDeletedEvent, FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from cached.errors import InvalidRequest
from cached.model import Digest
from cached.store.layout import Layout

log = logging.getLogger("cached.watch")

# Not opens and reads, of which every hit makes some; not modifications, as which linking a blob counts too.
_CHANGES: list[type[FileSystemEvent]] = [FileClosedEvent, FileDeletedEvent, FileMovedEvent]


class Watch(FileSystemEventHandler):
    """Calls `suspect(snapshot or blob, what happened)` from a thread of its own for every change that is seen."""

    def __init__(self, layout: Layout, suspect: Callable[[Digest, str], None]) -> None:
        self._layout = layout
        self._suspect = suspect
        self._observer = Observer()

    def start(self) -> bool:
        """False, and a warning, where the kernel has no watches left: everything else works without."""
        try:
            for folder in (self._layout.blobs, self._layout.snapshots):
                self._observer.schedule(self, str(folder), recursive=True, event_filter=_CHANGES)
            self._observer.start()
        except OSError as error:
            log.warning("watch.off", extra={"why": str(error), "mend": "raise fs.inotify.max_user_watches"})
            return False
        return True

    def close(self) -> None:
        if self._observer.is_alive():
            self._observer.stop()
            self._observer.join(1.0)

    def dispatch(self, event: FileSystemEvent) -> None:
        if event.is_directory:
            return
        digest = self._named(os.fsdecode(event.src_path))
        if digest is not None:
            self._suspect(digest, event.event_type)

    def _named(self, path: str) -> Digest | None:
        """The blob or the snapshot that a path belongs to."""
        parts = Path(path).relative_to(self._layout.root).parts
        try:
            return Digest(parts[2] if parts[0] == "blobs" else parts[1].removesuffix(".json"))
        except (InvalidRequest, IndexError):
            return None
