"""Notice changes by other processes to published files: files written to, removed or replaced behind our back.

The kernel reports them (inotify, through watchdog), so a hit need not check every file. It is a tripwire, not a proof:
`verify` is the proof. The changes that our own work makes all the time (names that appear under blobs/, directories
that appear under snapshots/, names that are repaired) cause no event or are ignored.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
from collections.abc import Callable

from watchdog.observers.inotify_c import CallbackId, InotifyEvent, InotifyFD, Mask, WatchDescriptor
from watchdog.observers.inotify_c import InotifyConstants as Kernel

from cached.model import Digest
from cached.store.layout import Layout

log = logging.getLogger("cached.watch")

_WRITTEN = Kernel.IN_MODIFY | Kernel.IN_CLOSE_WRITE
_GOES = _WRITTEN | Kernel.IN_MOVED_FROM | Kernel.IN_DELETE | Kernel.IN_ONLYDIR | Kernel.IN_DONT_FOLLOW
_COMES = Kernel.IN_MOVED_TO | Kernel.IN_CREATE
_WHAT = (
    (_WRITTEN, "written to"),
    (Kernel.IN_DELETE, "removed"),
    (Kernel.IN_MOVED_FROM, "moved away"),
    (Kernel.IN_MOVED_TO, "replaced"),
)
_NAME = re.compile(r"([0-9a-f]{64})(\.json)?\Z")
_SNAPSHOT = re.compile(r"[0-9a-f]{64}\Z")  # Its manifest and lock files are beside it, and may appear and disappear.
_OURS = re.compile(r"\.[0-9a-f]{16}\Z")  # A name that Snapshots.mend links and then renames.

_BLOBS, _SNAPSHOTS = "blobs", "snapshots"  # The owner of a watch that is not a snapshot.
_CALLBACK = CallbackId(0)  # There is one for each watch.


class Watch:
    """Call `suspect(snapshot or blob, the name in the snapshot or "", what happened)` for each change, from its own
    thread."""

    def __init__(self, layout: Layout, suspect: Callable[[Digest, str, str], None]) -> None:
        self._blobs, self._snapshots = str(layout.blobs), str(layout.snapshots)
        self._suspect = suspect
        # Watched directories by number: the path, and its owner: a snapshot's digest or one of the two folders.
        self._watched: dict[WatchDescriptor, tuple[str, str]] = {}
        self._paths: dict[str, WatchDescriptor] = {}
        self._kernel: InotifyFD | None = None
        self._short = False
        self._mending = 0

    def start(self) -> bool:
        """Start watching. Return False, after a warning, where the kernel has no watches left: everything works without
        those that it lacks."""
        try:
            self._kernel = InotifyFD()
        except OSError as error:
            log.warning("watch.off", extra={"why": error.strerror, "mend": "raise fs.inotify.max_user_instances"})
            return False
        with os.scandir(self._blobs) as folders:
            for folder in folders:
                self._add(folder.path, _GOES, _BLOBS)
        self._add(self._snapshots, _GOES | _COMES, _SNAPSHOTS)
        for name in os.listdir(self._snapshots):
            if _SNAPSHOT.match(name):
                self._add_tree(f"{self._snapshots}/{name}", name)
        self._kernel.start()
        return not self._short

    def close(self) -> None:
        if self._kernel is not None and self._kernel.is_alive():
            self._kernel.stop()
            self._kernel.join(1.0)

    def on_event(self, event: InotifyEvent) -> None:
        """Report an event that is not our own work. Called by watchdog."""
        if event.wd not in self._watched or not event.name:
            return
        _, whose = self._watched[event.wd]
        name = os.fsdecode(event.name)
        what = next((what for mask, what in _WHAT if event.mask & mask), "changed")
        if whose not in (_BLOBS, _SNAPSHOTS):
            if self._inside(event, name, whose):
                self._suspect(Digest(whose), name, what)
            return
        named = _NAME.match(name)
        if named is None or (whose == _BLOBS and named[2]):
            return
        if whose == _BLOBS or self._under_snapshots(event, named[1]):
            self._suspect(Digest(named[1]), "", what)

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """Forget a directory that is gone. Called by watchdog."""
        path, _ = self._watched.pop(wd, ("", ""))
        self._paths.pop(path, None)

    def on_queue_overflow(self) -> None:
        """Log that the kernel dropped events. Called by watchdog."""
        log.warning("watch.overflow", extra={"why": "more changes at once than the kernel keeps; `cached verify`"})

    def _add_tree(self, path: str, digest: str) -> None:
        """Watch a directory and those below it. Each is watched before it is read, so no folder can appear in between
        unseen."""
        if self._add(path, _GOES | _COMES, digest):
            with contextlib.suppress(OSError), os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        self._add_tree(entry.path, digest)

    def _add(self, path: str, mask: int, whose: str) -> bool:
        assert self._kernel is not None  # `start` made it before anything was added.
        if path in self._paths:
            return True
        try:
            watch = self._kernel.add_callback(os.fsencode(path), Mask(mask), self, _CALLBACK)
        except OSError as error:
            if error.errno == errno.ENOSPC and not self._short:
                self._short = True
                told = {"watched": len(self._watched), "mend": "raise fs.inotify.max_user_watches"}
                log.warning("watch.short", extra={"why": "the kernel has no watches left", **told})
            return False  # Or it is gone again.
        self._paths[path], self._watched[watch] = watch, (path, whose)
        return True

    def _under_snapshots(self, event: InotifyEvent, digest: str) -> bool:
        """Return True if the event is a suspicion. A name that appears was published by us. A name that disappears may
        be our own removal; the suspect handler decides."""
        if event.mask & _COMES:
            if event.is_directory:
                self._add_tree(f"{self._snapshots}/{digest}", digest)
            return False
        if event.is_directory:
            self._forget(digest)
        return True

    def _forget(self, digest: str) -> None:
        """Stop watching a removed snapshot, or else its changes in the trash would be reported under its old name."""
        assert self._kernel is not None
        watches = [watch for watch, (_, whose) in self._watched.items() if whose == digest]
        self._kernel.remove_callbacks([(watch, _CALLBACK) for watch in watches])
        for watch in watches:
            self.on_watch_deleted(watch)

    def _inside(self, event: InotifyEvent, name: str, digest: str) -> bool:
        if event.mask & Kernel.IN_MOVED_FROM and _OURS.match(name):
            self._mending = event.cookie
            return False
        if event.mask & Kernel.IN_MOVED_TO and event.cookie == self._mending:
            return False
        if event.mask & _COMES and event.is_directory:
            self._add_tree(f"{self._snapshots}/{digest}", digest)  # The event does not name the folder.
            return False
        return not event.mask & Kernel.IN_CREATE
