"""The nouns: frozen values that every package shares. No I/O here."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cached.errors import InvalidRequest, ModelNotFound
from cached.paths import check_paths

if TYPE_CHECKING:
    from cached.model_ref import ModelRef  # Not imported by the client, which has to import in milliseconds.

PIECE_BYTES = 16 * 1024 * 1024  # The unit of transfer, resume and re-checking; its XXH3-128 is stored with the blob.

_json = json.JSONEncoder(separators=(",", ":")).encode  # `json.dumps` makes an encoder each time.

_HEX64 = re.compile(r"[0-9a-f]{64}\Z")


class Plain:
    """A base class whose instances are pickled as a call with their fields. A frozen dataclass with slots would be
    restored field by field, in Python, and models have thousands of files."""

    __slots__: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple([getattr(self, name) for name in self.__slots__])


@dataclass(frozen=True, slots=True, order=True)
class Digest(Plain):
    """The sha256 of some bytes, which names a blob, a manifest or a snapshot."""

    hex: str

    def __post_init__(self) -> None:
        if not _HEX64.match(self.hex):
            raise InvalidRequest(f"{self.hex[:80]!r} is not a sha256 digest: 64 lower-case hex digits are.")

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Parse `sha256:<64 hex>`, or the hex alone. Raise InvalidRequest for anything else."""
        return cls(text.removeprefix("sha256:"))

    @classmethod
    def of(cls, data: bytes) -> Digest:
        return cls(hashlib.sha256(data).hexdigest())

    def __str__(self) -> str:
        return "sha256:" + self.hex


@dataclass(frozen=True, slots=True)
class Checksum(Plain):
    """A checksum that the source publishes beside sha256: `git-sha1`, `md5` or `crc32c`, in lower-case hex."""

    algorithm: str
    value: str


@dataclass(frozen=True, slots=True)
class Entry(Plain):
    """One remote file at one version. `version` is a commit, versionId, ETag, generation or ukey."""

    path: str
    size: int
    version: str
    digest: Digest | None = None
    checksums: tuple[Checksum, ...] = ()


@dataclass(frozen=True, slots=True)
class Listing:
    """The present meaning of a ref, as its source states it.

    `place` is the location, endpoint included (`s3://endpoint/bucket/prefix`); together with an entry's path, version
    and size it forms the identity under which the node remembers a file's digest.
    """

    ref: ModelRef
    place: str
    revision: str
    entries: tuple[Entry, ...]
    open: bool = False  # The source says that everybody may read it.
    # The file that proves the right to the whole place, selected or not: the source chooses it, never a caller.
    # None where rights are per file, so that each file is proved on its own.
    probe: Entry | None = None

    def __post_init__(self) -> None:
        if not self.entries:
            raise ModelNotFound(
                f"There are no model files at {self.ref}: the place is empty or no file matches; check the "
                "URI and the patterns."
            )
        check_paths(entry.path for entry in self.entries)
        if any(entry.size < 0 for entry in self.entries):
            raise InvalidRequest(f"The source lists a file of negative size at {self.ref}; nothing was fetched.")

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.entries)

    @property
    def rights_per_file(self) -> bool:
        return self.probe is None

    def part(self, entries: tuple[Entry, ...]) -> Listing:
        """Return a listing of the same place and revision with only these entries, which were checked before."""
        found = object.__new__(Listing)
        values = self.ref, self.place, self.revision, entries, self.open, self.probe
        for name, value in zip(self.__slots__, values, strict=True):
            object.__setattr__(found, name, value)
        return found

    def identity(self, entry: Entry) -> str:
        return _json([self.place, entry.path, entry.version, entry.size])


def listing_revision(entries: Iterable[Entry]) -> str:
    """Compute a revision for places that have none: 40 hex digits over every path, size and version."""
    lines = sorted(f"{entry.path}\0{entry.size}\0{entry.version}\n" for entry in entries)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:40]


@dataclass(frozen=True, slots=True, order=True)
class ManifestFile:
    path: str
    size: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a cached snapshot, sorted by path. The manifest's own digest names the snapshot."""

    files: tuple[ManifestFile, ...]
    digest: Digest = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", tuple(sorted(self.files, key=lambda file: file.path)))
        check_paths(file.path for file in self.files)
        lines = "".join([f"{f.digest} {f.size} {f.path}\n" for f in self.files])
        object.__setattr__(self, "digest", Digest.of(lines.encode()))

    @property
    def size(self) -> int:
        """Return the bytes as the caller sees them: a blob under two names counts twice."""
        return sum(file.size for file in self.files)

    @property
    def folders(self) -> list[str]:
        """Return every directory on the path of a file, outer ones first."""
        found: set[str] = set()
        for file in self.files:
            folder = file.path.rpartition("/")[0]
            while folder and folder not in found:
                found.add(folder)
                folder = folder.rpartition("/")[0]
        return sorted(found)

    @property
    def blobs(self) -> dict[Digest, int]:
        return {file.digest: file.size for file in self.files}


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a fill. Bytes and files that the node already had count as done, and as `cached_bytes`."""

    phase: str  # "resolving", "waiting", "fetching", "waiting for the source" or "publishing"
    done_bytes: int = 0
    total_bytes: int = 0
    cached_bytes: int = 0
    done_files: int = 0
    total_files: int = 0
