"""Repair snapshots without the network: recover blobs that exist under other names, and correct names in
directories."""

from __future__ import annotations

import hashlib
import logging
import os
import stat

from cached.errors import CachedError
from cached.model import Digest, Manifest
from cached.store.blobs.blobs import Blobs
from cached.store.blobs.verify import check
from cached.store.disk import fsync_directory
from cached.store.snapshots.snapshots import Origin, Snapshots
from cached.store.startup.blob_scan import Census
from cached.store.startup.manifest_scan import Glance
from cached.store.startup.report import Recovered
from cached.store.startup.tree_scan import contents, proven

log = logging.getLogger("cached.store")


class MakingWhole:
    def __init__(self, snapshots: Snapshots, blobs: Blobs, census: Census, done: Recovered) -> None:
        self._snapshots, self._blobs, self._census = snapshots, blobs, census
        self._done = done
        self._inodes: dict[int, tuple[Digest, int]] | None = None
        self._wrong: set[tuple[int, Digest]] = set()  # Inodes that were hashed and do not have that digest.

    def sound(self, digest: Digest, manifest: Glance) -> bool:
        """Return whether every blob exists, and the directory contains exactly the names that the manifest lists, each
        linked to its blob."""
        expected, lying = {}, self._census.get
        for path, size, blob in manifest.files:
            one = lying(blob)
            if one is None or one.size != size:
                return False
            expected[path] = one.inode
        there = contents(str(self._snapshots.path(digest)))
        if there is None or there.folders.keys() != manifest.folders:
            return False
        if any(mode != 0o555 for folder, mode in there.folders.items() if folder):  # `Entrants` sets its own.
            return False
        # On some file systems the inode numbers in directories differ from those of stat.
        return there.files == expected or (there.files.keys() == expected.keys() and self._linked(digest))

    def _linked(self, digest: Digest) -> bool:
        read = self._snapshots.read(digest)
        return read is not None and self._snapshots.intact(read[0])

    def manifest(self, digest: Digest, origin: Origin) -> Manifest | None:
        """Rewrite a lost or damaged manifest from the directory, and return it; None when the directory does not prove
        it."""
        manifest = proven(str(self._snapshots.path(digest)), digest, self._identify)
        if manifest is not None:
            self._snapshots.rewrite(manifest, origin)
            self._done.snapshots_mended += 1
            log.warning("manifest.mended", extra={"snapshot": digest.hex})
        return manifest

    def _identify(self, name: str, inode: int) -> tuple[Digest, int]:
        """Return the digest and size (bytes) of a file: from the blob with the same inode, else from the file's
        bytes."""
        if self._inodes is None:
            self._inodes = {lying.inode: (Digest(blob), lying.size) for blob, lying in self._census.items()}
        known = self._inodes.get(inode)
        if known is not None:
            return known
        with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return Digest(hashlib.file_digest(file, "sha256").hexdigest()), os.fstat(file.fileno()).st_size

    def regain(self, digest: Digest, manifest: Manifest) -> None:
        """Recover missing blobs from the files of this snapshot, which may be the last links to their bytes. Link only
        files with the right sha256."""
        for file in manifest.files:
            if self._census.holds(file.digest, file.size):
                continue
            name = f"{self._snapshots.path(digest)}/{file.path}"
            try:
                status = os.lstat(name)
            except OSError:
                continue
            key = (status.st_ino, file.digest)
            if not stat.S_ISREG(status.st_mode) or status.st_size != file.size or key in self._wrong:
                continue
            if check(name, file.digest, file.size, None, deep=True).problem is not None:
                self._wrong.add(key)
                continue
            self._bring_back(name, file.digest)

    def _bring_back(self, name: str, blob: Digest) -> None:
        path = str(self._blobs.path(blob))
        self._put_aside(blob)
        os.chmod(name, 0o444)
        os.link(name, path)
        fsync_directory(self._blobs.path(blob).parent)
        self._census.came(blob.hex)
        self._done.blobs_regained += 1
        log.warning("blob.regained", extra={"digest": blob.hex, "from": name})

    def mend(self, digest: Digest, manifest: Manifest, origin: Origin) -> tuple[bool, set[str]]:
        """Repair the snapshot's directory. Return whether the snapshot is complete now, and the hex digests of the
        blobs that only the source can provide."""
        missing = {blob for blob, size in manifest.blobs.items() if not self._census.holds(blob, size)}
        for blob in missing:
            self._put_aside(blob)
        if missing:
            return False, {blob.hex for blob in missing}
        if self.sound(digest, Glance.of(manifest, origin)):  # Only a blob's name was missing.
            return True, set()
        try:
            self._snapshots.mend(manifest)
        except (OSError, CachedError) as error:
            log.error("snapshot.unmended", extra={"snapshot": digest.hex, "why": str(error)})
            return False, set()
        self._done.snapshots_mended += 1
        log.warning("snapshot.mended", extra={"snapshot": digest.hex})
        return True, set()

    def _put_aside(self, blob: Digest) -> None:
        """Quarantine a file of the wrong size under the blob's name, if there is one."""
        lying = self._census.get(blob.hex)
        if lying is not None:
            self._blobs.quarantine(blob, lying.size, None, ())
            self._census.gone(blob.hex)
            self._done.blobs_damaged += 1
            log.error("blob.damaged", extra={"digest": blob.hex, "problem": f"{lying.size} bytes", "when": "start-up"})
