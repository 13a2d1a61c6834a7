"""Directories of hard links to blobs: what callers are given. Nothing is under a snapshot's name until it is whole."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from cached.access import UNKNOWN, Access
from cached.errors import CachedError, CorruptBlob
from cached.model import Digest, Manifest, ManifestFile
from cached.store.disk import delete_tree, disk_errors, fsync_directory
from cached.store.layout import Layout

_HEAD_END, _END = ', "files": [', "]}"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a snapshot came from: enough to fetch it again, and to know who may read it. `ref` is ModelRef.key.

    `brought_by`: the user on whose account it was fetched; None: on nobody's.
    """

    ref: str
    source: str
    revision: str
    access: Access = UNKNOWN
    brought_by: int | None = None

    @property
    def named(self) -> tuple[str, str, str, int | None]:
        """All but the access, which the source may change."""
        return self.ref, self.source, self.revision, self.brought_by


def bringer(raw: object) -> int | None:
    """What a manifest says of who brought it, if that can be."""
    return raw if isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw < 1 << 32 else None


class Snapshots:
    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def path(self, digest: Digest) -> Path:
        return self._layout.snapshot(digest)

    def manifest(self, digest: Digest) -> Path:
        return self._layout.manifest(digest)

    def build(self, manifest: Manifest, origin: Origin) -> Origin:
        """Make the snapshot's directory, durably; every blob must be published. A new one is the daemon's alone.

        One that is already there is kept, with its origin, and names that no longer link to their blob are linked
        again. What the manifest on the disk now says of the origin.
        """
        with disk_errors(f"building the snapshot {manifest.digest.hex[:12]}"):
            self.mend(manifest)
            there = self.read(manifest.digest)
            if there is None:
                self.rewrite(manifest, origin)
            fsync_directory(self._layout.snapshots)
        return origin if there is None else there[1]

    def read(self, digest: Digest) -> tuple[Manifest, Origin] | None:
        """The manifest on disk; None when it is absent, unreadable, or does not have the digest it is named by."""
        try:
            raw = _parsed(self.manifest(digest).read_text())
            files = tuple(ManifestFile(f["path"], int(f["size"]), Digest.parse(f["digest"])) for f in raw["files"])
            manifest = Manifest(files)
            access = Access.parse(str(raw.get("access", "")))
            brought_by = bringer(raw.get("brought_by"))
            origin = Origin(str(raw["ref"]), str(raw["source"]), str(raw["revision"]), access, brought_by)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, CachedError):
            return None
        return (manifest, origin) if manifest.digest == digest else None

    def intact(self, manifest: Manifest) -> bool:
        """Whether every name is a regular file of the right size that shares its blob's inode."""
        path = self.path(manifest.digest)
        try:
            return all(
                _same_file(path / file.path, self._layout.blob(file.digest), file.size) for file in manifest.files
            )
        except (OSError, CorruptBlob):
            return False

    def rewrite(self, manifest: Manifest, origin: Origin) -> None:
        """Write the manifest, which is the daemon's alone."""
        path = self.manifest(manifest.digest)
        if path.is_dir() and not path.is_symlink():
            self._discard(path)
        self._write_manifest(manifest, origin)
        fsync_directory(self._layout.snapshots)

    def remove(self, digest: Digest) -> Path | None:
        """Take the snapshot out of sight; returns what to delete afterwards. The caller excludes leases."""
        path, target = self.path(digest), self._layout.trash / f"{digest.hex}.{secrets.token_hex(4)}"
        with disk_errors(f"removing the snapshot {digest.hex[:12]}"):
            moved = self._into_trash(path, target)
            with contextlib.suppress(FileNotFoundError):
                self.manifest(digest).unlink()
            self.remove_locks(digest)
            fsync_directory(self._layout.snapshots)
        return target if moved else None

    def remove_locks(self, digest: Digest) -> None:
        """Clients that have opened one, and lock it when the exclusion is over, see st_nlink == 0 and ask again."""
        self._discard(self._layout.locks(digest))

    def _into_trash(self, path: Path, target: Path) -> bool:
        try:
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)  # Moving a directory rewrites its "..", which needs the right to write to it.
            os.rename(path, target)
        except FileNotFoundError:
            return False
        return True

    def _farm(self, path: Path, manifest: Manifest) -> None:
        tree = self._layout.ingest / f"{manifest.digest.hex}.{secrets.token_hex(4)}.tree"
        tree.mkdir(mode=0o700)
        folders = manifest.folders
        for folder in folders:  # Outer ones first.
            (tree / folder).mkdir(mode=0o755)
        # Text, not paths: a model of thousands of files waits for these lines.
        root, blobs = f"{tree}/", str(self._layout.blobs)
        for file in manifest.files:
            digest = file.digest.hex
            os.link(f"{blobs}/{digest[:2]}/{digest}", root + file.path)
        for folder in folders:
            (tree / folder).chmod(0o555)
            fsync_directory(tree / folder)
        fsync_directory(tree)
        os.rename(tree, path)
        path.chmod(0o500)

    def mend(self, manifest: Manifest) -> None:
        """Make the directory what the manifest says, durably; every blob must be there.

        Names that are right stay as they are, others get their blob by a rename: whoever reads there never misses a
        file. What else lies there goes.
        """
        path = self.path(manifest.digest)
        if path.is_symlink() or not path.is_dir():
            self._discard(path)
            self._farm(path, manifest)
            return
        folders = [path, *(path / folder for folder in manifest.folders)]  # Outer ones first.
        touched: set[Path] = set()
        for folder in folders[1:]:
            if folder.is_symlink() or not folder.is_dir():
                _open_up(folder.parent, touched)
                self._discard(folder)
                folder.mkdir(mode=0o755)
        for file in manifest.files:
            name, blob = path / file.path, self._layout.blob(file.digest)
            if not _same_file(name, blob, file.size):
                _open_up(name.parent, touched)
                if name.is_dir() and not name.is_symlink():  # No rename puts a file in its place.
                    self._discard(name)
                temporary = name.with_name(f".{secrets.token_hex(8)}")
                os.link(blob, temporary)
                os.rename(temporary, name)
        self._discard_foreign(path, manifest, touched)
        for folder in reversed(folders[1:]):
            folder.chmod(0o555)
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)
        for folder in touched:
            fsync_directory(folder)

    def _discard_foreign(self, path: Path, manifest: Manifest, touched: set[Path]) -> None:
        """What a crash left of an earlier mending, and what somebody put there for loaders to find."""
        ours = {path / file.path for file in manifest.files} | {path / folder for folder in manifest.folders}
        for folder in [path, *(path / folder for folder in manifest.folders)]:
            for name in os.listdir(folder):
                if folder / name not in ours:
                    _open_up(folder, touched)
                    self._discard(folder / name)

    def _discard(self, path: Path) -> None:
        target = self._layout.trash / f"stray.{secrets.token_hex(8)}"
        if self._into_trash(path, target):
            delete_tree(target)

    def _write_manifest(self, manifest: Manifest, origin: Origin) -> None:
        temporary = self._layout.ingest / f"{manifest.digest.hex}.{secrets.token_hex(4)}.manifest"
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
            _dump(manifest, origin, file)
        os.rename(temporary, self.manifest(manifest.digest))


def _parsed(text: str) -> Any:
    """What `_dump` wrote, line by line: decoded in one go, a model of many files would keep every hit waiting. Whatever
    else it is, all at once."""
    head, *lines = text.split("\n")
    if head.endswith(_HEAD_END) and lines[-2:] == [_END, ""]:
        return {
            **json.loads(f"{head.removesuffix(_HEAD_END)}}}"),
            "files": [json.loads(line.rstrip(",")) for line in lines[:-2]],
        }
    return json.loads(text)


def _dump(manifest: Manifest, origin: Origin, file: TextIO) -> None:
    """Read-only, and durable when this returns."""
    named = {
        "ref": origin.ref,
        "source": origin.source,
        "revision": origin.revision,
        "access": str(origin.access),
        **({} if origin.brought_by is None else {"brought_by": origin.brought_by}),
    }
    lines = [json.dumps({"path": f.path, "size": f.size, "digest": str(f.digest)}) for f in manifest.files]
    # One line for each file: json.dump's own layout is written by Python, letter by letter.
    file.write(f"{json.dumps(named)[:-1]}{_HEAD_END}\n" + ",\n".join(lines) + f"\n{_END}\n")
    file.flush()
    os.fchmod(file.fileno(), stat.S_IMODE(os.fstat(file.fileno()).st_mode) & ~0o222)
    os.fsync(file.fileno())


def _open_up(folder: Path, touched: set[Path]) -> None:
    if folder not in touched:
        _writable(folder)
        touched.add(folder)


def _writable(path: Path) -> None:
    """By its owner; for others it stays what it is, an ACL included."""
    path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o200)


def _same_file(name: Path, blob: Path, size: int) -> bool:
    """FileNotFoundError when the blob is gone; a missing name is just not the same."""
    target = os.lstat(blob)
    if target.st_size != size:
        raise CorruptBlob(f"The blob {blob.name[:12]} has {target.st_size} bytes instead of {size}.")
    try:
        status = os.lstat(name)
    except FileNotFoundError:
        return False
    return (status.st_dev, status.st_ino) == (target.st_dev, target.st_ino)
