"""Noticing when somebody else changes what is published: a file written to, removed or replaced behind our back.

The kernel tells (inotify), so that a hit need not look at every file. It is a tripwire, not a proof: `verify` is the
proof. What our own work does there all the time (names that come under blobs/, directories that come under snapshots/,
names that are mended) wakes or concerns nobody.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable

from cached.daemon import inotify
from cached.daemon.inotify import Event, Inotify
from cached.model import Digest
from cached.store.layout import Layout

log = logging.getLogger("cached.watch")

_GOES = inotify.MODIFY | inotify.CLOSE_WRITE | inotify.MOVED_FROM | inotify.DELETE
_COMES = inotify.MOVED_TO | inotify.CREATE
_WHAT = (
    (inotify.MODIFY | inotify.CLOSE_WRITE, "written to"),
    (inotify.DELETE, "removed"),
    (inotify.MOVED_FROM, "moved away"),
    (inotify.MOVED_TO, "replaced"),
)
_NAME = re.compile(r"([0-9a-f]{64})(\.json)?\Z")
_OURS = re.compile(r"\.[0-9a-f]{16}\Z")  # A name that Snapshots.mend links before it renames it.

_BLOBS, _SNAPSHOTS = "blobs", "snapshots"  # Whose a watch is, beside the snapshots themselves.


class Watch:
    """Calls `suspect(snapshot or blob, what happened)` from a thread of its own for every change that is seen."""

    def __init__(self, layout: Layout, suspect: Callable[[Digest, str], None]) -> None:
        self._blobs, self._snapshots = str(layout.blobs), str(layout.snapshots)
        self._suspect = suspect
        self._watched: dict[int, str] = {}  # What is watched: a snapshot's digest, or one of the two folders.
        self._kernel: Inotify | None = None
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._short = False
        self._mending = 0

    def start(self) -> bool:
        """False, and a warning, where the kernel has no watches left: everything works without those that it lacks."""
        try:
            self._kernel = Inotify()
        except OSError as error:
            log.warning("watch.off", extra={"why": error.strerror, "mend": "raise fs.inotify.max_user_instances"})
            return False
        with os.scandir(self._blobs) as folders:
            for folder in folders:
                self._add(folder.path, _GOES, _BLOBS)
        self._add(self._snapshots, _GOES | _COMES, _SNAPSHOTS)
        for name in os.listdir(self._snapshots):
            if not name.endswith(".json"):
                self._add_snapshot(name)
        self._thread.start()
        return not self._short

    def close(self) -> None:
        if self._kernel is not None and self._thread.is_alive():
            self._kernel.stop()
            self._thread.join(1.0)

    def _add_snapshot(self, digest: str) -> None:
        self._add_tree(f"{self._snapshots}/{digest}", digest)

    def _add_tree(self, path: str, digest: str) -> None:
        """Watched before it is looked into: no folder can come in between."""
        if self._add(path, _GOES | _COMES, digest):
            with contextlib.suppress(OSError), os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        self._add_tree(entry.path, digest)

    def _add(self, path: str, mask: int, whose: str) -> bool:
        assert self._kernel is not None  # Made by `start`, before anything is added.
        try:
            self._watched[self._kernel.add(path, mask)] = whose
        except OSError as error:
            if error.errno == errno.ENOSPC and not self._short:
                self._short = True
                told = {"watched": len(self._watched), "mend": "raise fs.inotify.max_user_watches"}
                log.warning("watch.short", extra={"why": "the kernel has no watches left", **told})
            return False  # Or it is gone again.
        return True

    def _run(self) -> None:
        assert self._kernel is not None
        for events in self._kernel.events():
            suspects: dict[str, str] = {}
            for event in events:
                digest = self._touched(event)
                if digest is not None:
                    suspects[digest] = next((what for mask, what in _WHAT if event.mask & mask), "changed")
            for digest, what in suspects.items():
                self._suspect(Digest(digest), what)
        self._kernel.close()

    def _touched(self, event: Event) -> str | None:
        """The digest of the blob or the snapshot that somebody else has changed, if that is what it says."""
        if event.mask & inotify.OVERFLOW:
            log.warning("watch.overflow", extra={"why": "more changes at once than the kernel keeps; `cached verify`"})
        whose = self._watched.get(event.watch)
        if event.mask & inotify.IGNORED:  # The directory is gone.
            self._watched.pop(event.watch, None)
        if whose is None or not event.name:
            return None
        if whose in (_BLOBS, _SNAPSHOTS):
            named = _NAME.match(event.name)
            if named is None or (whose == _BLOBS and named[2]):
                return None
            return named[1] if whose == _BLOBS else self._under_snapshots(event, named[1])
        return self._inside(event, whose)

    def _under_snapshots(self, event: Event, digest: str) -> str | None:
        """Coming is our own publishing; going is a removal, of which `suspect` knows whether it was ours."""
        if event.mask & _COMES:
            if event.mask & inotify.IS_DIRECTORY:
                self._add_snapshot(digest)
            return None
        if event.mask & inotify.IS_DIRECTORY:
            self._forget(watch for watch, whose in list(self._watched.items()) if whose == digest)
        return digest

    def _forget(self, watches: Iterable[int]) -> None:
        """Else what becomes of it in the trash would be told under its old name."""
        assert self._kernel is not None
        for watch in watches:
            self._watched.pop(watch, None)
            self._kernel.remove(watch)

    def _inside(self, event: Event, digest: str) -> str | None:
        if event.mask & inotify.MOVED_FROM and _OURS.match(event.name):
            self._mending = event.cookie
            return None
        if event.mask & inotify.MOVED_TO and event.cookie == self._mending:
            return None
        if event.mask & _COMES and event.mask & inotify.IS_DIRECTORY:
            self._add_snapshot(digest)  # Which folder of it, the event does not say; adding again changes nothing.
            return None
        return None if event.mask & inotify.CREATE else digest
