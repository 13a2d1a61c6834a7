"""Manifests as plain strings and numbers: a start reads ten thousand of them, and most are correct."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from cached.access import Access
from cached.model import Manifest
from cached.store.snapshots.snapshots import Origin, bringer

File = tuple[str, int, str]  # Path, size in bytes, hex of the digest; in the order of a Manifest's files.


@dataclass(frozen=True, slots=True)
class Glance:
    files: list[File]
    origin: Origin

    @classmethod
    def of(cls, manifest: Manifest, origin: Origin) -> Glance:
        return cls([(file.path, file.size, file.digest.hex) for file in manifest.files], origin)

    @property
    def folders(self) -> set[str]:
        """Every directory that contains a file, relative to the snapshot; "" is the snapshot itself."""
        found = {""}
        for path, _, _ in self.files:
            folder = path.rpartition("/")[0]
            while folder not in found:
                found.add(folder)
                folder = folder.rpartition("/")[0]
        return found

    @property
    def size(self) -> int:
        return sum(size for _, size, _ in self.files)


def glance(path: str, digest: str) -> Glance | None:
    """Return the manifest at `path` if its digest is `digest`, under which it is stored. Its paths may be hostile, so
    no file that they name is opened.

    Return None when the digest differs, or when a full parse is needed to tell.
    """
    try:
        with open(path, "rb") as file:
            raw = json.loads(file.read())
        files = sorted((each["path"], each["size"], each["digest"].removeprefix("sha256:")) for each in raw["files"])
        access, brought_by = Access.parse(str(raw.get("access", ""))), bringer(raw.get("brought_by"))
        origin = Origin(raw["ref"], raw["source"], raw["revision"], access, brought_by)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not all(isinstance(text, str) for text in (origin.ref, origin.source, origin.revision)):
        return None
    return Glance(files, origin) if _digest(files) == digest else None


def _digest(files: Iterable[File]) -> str:
    """Return the hex of the digest that Manifest.digest computes for these files."""
    lines = [f"sha256:{digest} {size} {path}\n" for path, size, digest in files]
    return hashlib.sha256("".join(lines).encode(errors="surrogatepass")).hexdigest()
