"""Foreign names under the root: deleted, quarantined or left alone, always logged, and never a reason not to start."""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path

from cached.store.disk import delete_tree
from cached.store.layout import Layout
from cached.store.startup.report import Recovered

log = logging.getLogger("cached.store")

LOGGED = 20  # Lines at most; somebody may have unpacked an archive into the root.


class Strays:
    def __init__(self, layout: Layout, done: Recovered) -> None:
        self._layout = layout
        self._done = done
        self._lines = 0

    def remove(self, path: str) -> None:
        """Delete the file or directory, whatever it is."""
        self._put_away(path, f"{self._layout.trash}/stray.{secrets.token_hex(8)}", "removed")

    def put_aside(self, path: str, why: str) -> bool:
        """Quarantine the file or directory, for the operator to inspect. Return False when it stays where it is."""
        name = os.path.basename(path)[:80]
        return self._put_away(path, f"{self._layout.quarantine}/{name}.{secrets.token_hex(4)}", f"quarantined: {why}")

    def leave(self, path: str) -> None:
        self._done.strays_left += 1
        self._say(path, "left alone")

    def sweep(self, path: str) -> None:
        """Delete a file or directory of our own, such as one in the trash. Only a failure is logged."""
        try:
            delete_tree(Path(path))
        except OSError as error:
            self._failed(path, error)
        else:
            self._done.strays_removed += 1

    def _put_away(self, path: str, target: str, what: str) -> bool:
        try:
            if os.path.isdir(path) and not os.path.islink(path):
                os.chmod(path, 0o755)  # Moving a directory rewrites its "..", which needs the right to write to it.
            os.rename(path, target)
        except OSError as error:  # It is a mount point, or immutable.
            self._failed(path, error)
            return False
        self._say(path, what)
        if target.startswith(f"{self._layout.trash}/"):
            self.sweep(target)
        else:
            self._done.strays_removed += 1
        return True

    def _failed(self, path: str, error: OSError) -> None:
        self._done.strays_left += 1
        self._say(path, f"left alone: {error.strerror}")

    def _say(self, path: str, what: str) -> None:
        self._lines += 1
        if self._lines <= LOGGED:
            shown = os.fsencode(os.path.relpath(path, self._layout.root)).decode(errors="backslashreplace")
            log.warning("store.stray", extra={"stray": shown[:200], "what": what})
        elif self._lines == LOGGED + 1:
            log.warning("store.stray", extra={"stray": "…", "what": "there are more, which are not logged"})
