"""Upgrade a root of layout 1, in which manifests were the lock files, open to every user that might lease."""

from __future__ import annotations

import contextlib
import os
import re

from cached.model import Digest
from cached.store.layout import Layout
from cached.store.private import exposed
from cached.store.snapshots.acl import close
from cached.store.snapshots.leases import BEFORE, make_folder

_MANIFEST = re.compile(r"([0-9a-f]{64})\.json")


def from_layout_1(layout: Layout) -> None:
    """Make every manifest readable by the daemon alone. Locks that clients hold on it still count, because it is linked
    as a lock file."""
    with contextlib.suppress(FileNotFoundError), os.scandir(layout.snapshots) as entries:
        for entry in entries:
            named = _MANIFEST.fullmatch(entry.name)
            if named and entry.is_file(follow_symlinks=False) and exposed(entry.stat(follow_symlinks=False)):
                _adopt(layout, Digest(named[1]))


def _adopt(layout: Layout, snapshot: Digest) -> None:
    manifest, folder = layout.manifest(snapshot), layout.locks(snapshot)
    make_folder(folder)
    with contextlib.suppress(FileExistsError):
        os.link(manifest, folder / BEFORE)
    close(manifest, 0o400)  # Last, because a start takes this mode to mean that nothing is left to do.
