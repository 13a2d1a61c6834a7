"""What lies in a snapshot's directory, and the manifest that this proves."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from cached.errors import CachedError
from cached.model import Digest, Manifest, ManifestFile


@dataclass(frozen=True, slots=True)
class Contents:
    """Inodes by path, and the modes of folders, "" for the directory itself."""

    files: dict[str, int]
    folders: dict[str, int]


def contents(directory: str) -> Contents | None:
    """None when that is no directory, or cannot be read."""
    found = Contents({}, {})
    try:
        _look_into(directory, "", found)
    except OSError:
        return None
    return found


def _look_into(folder: str, path: str, found: Contents) -> None:
    found.folders[path.rstrip("/")] = stat.S_IMODE(os.lstat(folder).st_mode)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _look_into(entry.path, f"{path}{entry.name}/", found)
            else:
                found.files[path + entry.name] = entry.inode()


def proven(directory: str, digest: Digest, identify: Callable[[str, int], tuple[Digest, int]]) -> Manifest | None:
    """The manifest of this digest, from the directory that is named by it, if its files are the ones.

    `identify` says what a file is, by its path and inode: its digest and size.
    """
    found = contents(directory)
    if found is None:
        return None
    try:
        known = [(name, *identify(f"{directory}/{name}", inode)) for name, inode in found.files.items()]
        manifest = Manifest(tuple(ManifestFile(name, size, blob) for name, blob, size in known))
    except (OSError, CachedError):
        return None
    return manifest if manifest.digest == digest else None
