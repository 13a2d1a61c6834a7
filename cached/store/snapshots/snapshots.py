"""Directories of hard links to blobs, which callers are given. Nothing has a snapshot's name until it is complete."""

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
    """The origin of a snapshot: enough to fetch it again, and to decide on access to it. `ref` is ModelRef.key.

    `brought_by` is the user on whose account it was fetched; None if on nobody's.
    """

    ref: str
    source: str
    revision: str
    access: Access = UNKNOWN
    brought_by: int | None = None

    @property
    def named(self) -> tuple[str, str, str, int | None]:
        """All fields but the access, which the source may change."""
        return self.ref, self.source, self.revision, self.brought_by


def bringer(raw: object) -> int | None:
    """Return the user that a manifest says brought it; None if that is no valid uid."""
    return raw if isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw < 1 << 32 else None


class Snapshots:
    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def path(self, digest: Digest) -> Path:
        return self._layout.snapshot(digest)

    def manifest(self, digest: Digest) -> Path:
        return self._layout.manifest(digest)

    def build(self, manifest: Manifest, origin: Origin) -> Origin:
        """Create the snapshot's directory, durably; every blob must be published. A new one is open to the daemon
        alone.

        One that exists already is kept, with its origin, and names that no longer link to their blob are linked again.
        Return the origin in the manifest that is now on the disk.
        """
        with disk_errors(f"building the snapshot {manifest.digest.hex[:12]}"):
            self.mend(manifest)
            there = self.read(manifest.digest)
            if there is None:
                self.rewrite(manifest, origin)
            fsync_directory(self._layout.snapshots)
        return origin if there is None else there[1]

    def read(self, digest: Digest) -> tuple[Manifest, Origin] | None:
        """Return the manifest on the disk and its origin; None when it is absent, unreadable, or does not have the
        digest it is named by."""
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
        """Return whether every name is a regular file of the right size that shares its blob's inode."""
        path = self.path(manifest.digest)
        try:
            return all(
                _same_file(path / file.path, self._layout.blob(file.digest), file.size) for file in manifest.files
            )
        except (OSError, CorruptBlob):
            return False

    def rewrite(self, manifest: Manifest, origin: Origin) -> None:
        """Write the manifest, which only the daemon may read."""
        path = self.manifest(manifest.digest)
        if path.is_dir() and not path.is_symlink():
            self._discard(path)
        self._write_manifest(manifest, origin)
        fsync_directory(self._layout.snapshots)

    def remove(self, digest: Digest) -> Path | None:
        """Move the snapshot into the trash, where it is no longer visible. Return the path to delete afterwards; None
        if there was no directory. The caller excludes leases."""
        path, target = self.path(digest), self._layout.trash / f"{digest.hex}.{secrets.token_hex(4)}"
        with disk_errors(f"removing the snapshot {digest.hex[:12]}"):
            moved = self._into_trash(path, target)
            with contextlib.suppress(FileNotFoundError):
                self.manifest(digest).unlink()
            self.remove_locks(digest)
            fsync_directory(self._layout.snapshots)
        return target if moved else None

    def remove_locks(self, digest: Digest) -> None:
        """Delete the snapshot's lock files. A client that has one open, and locks it after the exclusion, sees st_nlink
        == 0 and repeats its request."""
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
        # Strings, not Path objects: a model of thousands of files waits for these lines.
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
        """Make the directory agree with the manifest, durably; every blob must exist.

        Names that are right stay as they are, others get their blob by a rename, so that a reader never misses a file.
        Anything else in the directory is deleted.
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
                if name.is_dir() and not name.is_symlink():  # A rename cannot replace a directory by a file.
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
        """Delete the leftovers of an interrupted repair, and files that somebody put there for loaders to find."""
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
    """Decode a manifest. One that `_dump` wrote is decoded line by line: in one go, a model of many files would delay
    every hit. Any other is decoded at once."""
    head, *lines = text.split("\n")
    if head.endswith(_HEAD_END) and lines[-2:] == [_END, ""]:
        return {
            **json.loads(f"{head.removesuffix(_HEAD_END)}}}"),
            "files": [json.loads(line.rstrip(",")) for line in lines[:-2]],
        }
    return json.loads(text)


def _dump(manifest: Manifest, origin: Origin, file: TextIO) -> None:
    """Write the manifest, which is read-only and durable when this returns."""
    named = {
        "ref": origin.ref,
        "source": origin.source,
        "revision": origin.revision,
        "access": str(origin.access),
        **({} if origin.brought_by is None else {"brought_by": origin.brought_by}),
    }
    lines = [json.dumps({"path": f.path, "size": f.size, "digest": str(f.digest)}) for f in manifest.files]
    # One line for each file: json.dump would write its own layout in Python, letter by letter.
    file.write(f"{json.dumps(named)[:-1]}{_HEAD_END}\n" + ",\n".join(lines) + f"\n{_END}\n")
    file.flush()
    os.fchmod(file.fileno(), stat.S_IMODE(os.fstat(file.fileno()).st_mode) & ~0o222)
    os.fsync(file.fileno())


def _open_up(folder: Path, touched: set[Path]) -> None:
    if folder not in touched:
        _writable(folder)
        touched.add(folder)


def _writable(path: Path) -> None:
    """Make the path writable by its owner; for others nothing changes, an ACL included."""
    path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o200)


def _same_file(name: Path, blob: Path, size: int) -> bool:
    """Return whether `name` is the file `blob`; a missing name is not. Raise FileNotFoundError when the blob is
    missing, and CorruptBlob when it has not `size` bytes."""
    target = os.lstat(blob)
    if target.st_size != size:
        raise CorruptBlob(f"The blob {blob.name[:12]} has {target.st_size} bytes instead of {size}.")
    try:
        status = os.lstat(name)
    except FileNotFoundError:
        return False
    return (status.st_dev, status.st_ino) == (target.st_dev, target.st_ino)
