"""Copies of a root: hard links stay hard links, modes and times stay as they were; inodes are new."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def copy_root(source: Path, target: Path) -> None:
    _copy(str(source), str(target), {})


def _copy(source: str, target: str, seen: dict[int, str]) -> None:
    os.mkdir(target)
    with os.scandir(source) as entries:
        for entry in entries:
            name = f"{target}/{entry.name}"
            status = entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                _copy(entry.path, name, seen)
            elif status.st_ino in seen:
                os.link(seen[status.st_ino], name)
            else:
                shutil.copyfile(entry.path, name, follow_symlinks=False)
                os.chmod(name, status.st_mode & 0o7777)
                os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns))
                seen[status.st_ino] = name
    os.chmod(target, os.stat(source).st_mode & 0o7777)


def remove_root(root: Path) -> None:
    """Whatever its modes are."""
    if root.exists():
        for folder, _, _ in os.walk(root):
            os.chmod(folder, 0o700)
        shutil.rmtree(root)


Tree = dict[str, tuple[int, int, int]]


def tree(root: Path) -> Tree:
    """Inode, size and mode of everything that a restart may not change, by name; SQLite's files are not compared."""
    found: Tree = {}
    start = len(str(root)) + 1
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            if not name.startswith("index.db"):
                size = status.st_size if name in files else 0
                found[path[start:]] = (status.st_ino, size, status.st_mode)
    return found
