"""The files under `blobs/`, scanned once: a start needs the status of every blob, often more than once."""

from __future__ import annotations

import os
import re
import stat
from typing import NamedTuple

from cached.model import Digest
from cached.store.layout import Layout
from cached.store.startup.strays import Strays

_FOLDER = re.compile(r"[0-9a-f]{2}\Z")
_BLOB = re.compile(r"[0-9a-f]{64}\Z")
_BESIDE = ".pieces"


class Lying(NamedTuple):
    """A regular file that has a blob's name: its size in bytes, `st_mtime_ns` and inode."""

    size: int
    mtime_ns: int
    inode: int


class Census:
    """Map the hex of each blob's digest to its file. Code that moves a blob reports it with `gone` or `came`."""

    def __init__(self, layout: Layout, strays: Strays) -> None:
        """Scan `blobs/`. Delete foreign names; quarantine anything under a blob's name that is not a regular file."""
        self._root = str(layout.blobs)
        self._strays = strays
        self._found: dict[str, Lying] = {}
        with os.scandir(self._root) as folders:
            for folder in folders:
                if _FOLDER.match(folder.name) and folder.is_dir(follow_symlinks=False):
                    self._look_into(folder)
                else:
                    strays.remove(folder.path)

    def _look_into(self, folder: os.DirEntry[str]) -> None:
        beside: list[os.DirEntry[str]] = []
        with os.scandir(folder.path) as entries:
            for entry in entries:
                name = entry.name
                if _BLOB.match(name) and name.startswith(folder.name):
                    self._look_at(entry)
                elif _BLOB.match(name.removesuffix(_BESIDE)) and entry.is_file(follow_symlinks=False):
                    beside.append(entry)
                else:
                    self._strays.remove(entry.path)
        for entry in beside:
            if entry.name.removesuffix(_BESIDE) not in self._found:
                self._strays.remove(entry.path)

    def _look_at(self, entry: os.DirEntry[str]) -> None:
        status = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            self._strays.put_aside(entry.path, "no regular file")
            return
        if stat.S_IMODE(status.st_mode) != 0o444:
            os.chmod(entry.path, 0o444)  # No user may write to it; those who may enter its snapshot may read it.
        self._found[entry.name] = Lying(status.st_size, status.st_mtime_ns, status.st_ino)

    def get(self, blob: str) -> Lying | None:
        return self._found.get(blob)

    def holds(self, blob: Digest, size: int) -> bool:
        """Return whether a file of `size` bytes exists under the blob's name."""
        lying = self._found.get(blob.hex)
        return lying is not None and lying.size == size

    def gone(self, blob: str) -> None:
        self._found.pop(blob, None)

    def came(self, blob: str) -> None:
        status = os.lstat(f"{self._root}/{blob[:2]}/{blob}")
        self._found[blob] = Lying(status.st_size, status.st_mtime_ns, status.st_ino)

    def items(self) -> list[tuple[str, Lying]]:
        return list(self._found.items())
