"""The contents of a snapshot's directory, and the manifest that they prove."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from cached.errors import CachedError
from cached.model import Digest, Manifest, ManifestFile


@dataclass(frozen=True, slots=True)
class Contents:
    """Map each file's path to its inode, and each folder's path to its mode; "" is the directory itself."""

    files: dict[str, int]
    folders: dict[str, int]


def contents(directory: str) -> Contents | None:
    """Return the contents of the directory; None when it is not a directory or cannot be read."""
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
    """Return the manifest that has this digest, if the files of the directory, which is named by it, are the right
    ones; else None.

    `identify` returns the digest and size (bytes) of a file, given its path and inode.
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
