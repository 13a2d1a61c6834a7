"""The nouns: frozen values that every room shares. No I/O here."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from cached import budget
from cached.errors import InvalidRequest, ModelNotFound
from cached.globs import Globs, escape
from cached.paths import MAX_PATH_BYTES, check_paths
from cached.uris import canonical, display_name, spoken, with_query

PIECE_BYTES = 16 * 1024 * 1024  # The unit of transfer, resume and re-checking; its XXH3-128 is stored with the blob.

_json = json.JSONEncoder(separators=(",", ":")).encode  # `json.dumps` makes one each time.

_HEX64 = re.compile(r"[0-9a-f]{64}\Z")
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_LEAN, _HASHED = "lean", "hashed"
_LONG = 512  # Characters of patterns in a key, beyond which their hash stands for them.
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*\Z")
_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?\Z")


class Plain:
    """What is pickled as a call with its fields. Those of a frozen dataclass with slots would be set one by one, in
    Python, and models have thousands of files."""

    __slots__: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple([getattr(self, name) for name in self.__slots__])


@dataclass(frozen=True, slots=True, order=True)
class Digest(Plain):
    """The sha256 of some bytes; what a blob, a manifest or a snapshot is called."""

    hex: str

    def __post_init__(self) -> None:
        if not _HEX64.match(self.hex):
            raise InvalidRequest(f"{self.hex[:80]!r} is not a sha256 digest: 64 lower-case hex digits are.")

    @classmethod
    def parse(cls, text: str) -> Digest:
        """`sha256:<64 hex>`, or the hex alone."""
        return cls(text.removeprefix("sha256:"))

    @classmethod
    def of(cls, data: bytes) -> Digest:
        return cls(hashlib.sha256(data).hexdigest())

    def __str__(self) -> str:
        return "sha256:" + self.hex


@dataclass(frozen=True)
class ModelRef:
    """What a caller asks for. `uri` is canonical: `scheme://place`, with no revision and no secret in it.

    `lean`: what an LLM engine does not read may be left out. `query` is that of an http(s) URL, of which `uri` has the
    hash: for the request alone, never to be remembered or shown. What follows from the fields is worked out once.
    """

    uri: str
    revision: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    lean: bool = False
    query: str = field(default="", repr=False, compare=False)

    @classmethod
    def parse(
        cls,
        uri: str,
        revision: str | None = None,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        lean: bool = False,
    ) -> ModelRef:
        """From what a person types. A bare `org/name` is a Hub repository; `hf://…@rev` names a revision."""
        text = uri.strip()
        if not text or any(ord(char) < 33 or ord(char) == 127 for char in text):
            raise InvalidRequest(
                f"{spoken(uri)!r} is not a model URI: it is empty or holds blanks or control characters."
            )
        scheme, separator, place = text.partition("://")
        if not separator:
            scheme, place = "hf", text
        if not _SCHEME.match(scheme) or not place.strip("/"):
            raise InvalidRequest(
                f"{spoken(uri)!r} is not a model URI; try hf://org/name, s3://bucket/prefix or org/name."
            )
        if scheme == "hf":
            place, revision = _split_hub(uri, place, revision)
        named, query = canonical(scheme, place)
        patterns = tuple(sorted(set(include))), tuple(sorted(set(exclude)))
        if revision is not None and not re.match(r"[\w./-]{1,255}\Z", revision, re.ASCII):
            raise InvalidRequest(f"{spoken(revision)[:80]!r} is not a revision: give a branch, a tag or a commit.")
        return cls(named, revision, *patterns, lean, query)

    @classmethod
    def from_key(cls, key: str, files: Iterable[str] = ()) -> ModelRef:
        """What `key` came from; where that holds a hash of patterns, what selects exactly these files instead, or all.

        InvalidRequest when it is none.
        """
        try:
            uri, revision, include, exclude, *flags = json.loads(key)
            named = str(uri), None if revision is None else str(revision)
            patterns = tuple(map(str, include)), tuple(map(str, exclude))
            if _HASHED in flags:
                patterns = tuple(sorted(map(escape, files))), ()
            return cls(*named, *patterns, lean=_LEAN in flags)
        except (ValueError, TypeError, RecursionError):
            raise InvalidRequest(f"{key[:80]!r} is not what a ref is remembered by.") from None

    @property
    def scheme(self) -> str:
        return self.uri.partition("://")[0]

    @property
    def place(self) -> str:
        """What follows `scheme://`."""
        return self.uri.partition("://")[2]

    @property
    def immutable(self) -> bool:
        """Whether the revision is a full commit, which can never mean anything else."""
        return self.scheme == "hf" and self.revision is not None and _COMMIT.match(self.revision) is not None

    @cached_property
    def key(self) -> str:
        """Everything that selects content, as one string: what single flight and the index go by. Long patterns are
        hashed: rows and logs are not to grow with them."""
        if not self._long:
            return self._whole_key
        hashed = hashlib.sha256(_json([self.include, self.exclude]).encode()).hexdigest()
        return _json([self.uri, self.revision, [f"sha256:{hashed}"], [], *self._flags, _HASHED])

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """What it may be known by, its own key first: for a lean one the whole model will do. Earlier versions wrote
        long patterns out."""
        own = (self.key, self._whole_key) if self._long else (self.key,)
        return own + replace(self, lean=False).keys if self.lean else own

    @property
    def _long(self) -> bool:
        return sum(map(len, (*self.include, *self.exclude))) > _LONG

    @property
    def _whole_key(self) -> str:
        return _json([self.uri, self.revision, self.include, self.exclude, *self._flags])

    @property
    def _flags(self) -> list[str]:
        return [_LEAN] if self.lean else []

    def at(self, revision: str) -> ModelRef:
        return replace(self, revision=revision)

    def selects(self, path: str) -> bool:
        """Whether the patterns take this file: some include (or none given), and no exclude.

        A path that is too long for any file is taken, whatever they say: its listing is refused for it.
        """
        budget.check()
        if len(path) > MAX_PATH_BYTES:
            return True
        include, exclude = self._patterns
        return (not self.include or include.match(path)) and not exclude.match(path)

    @cached_property
    def _patterns(self) -> tuple[Globs, Globs]:
        """As huggingface_hub reads them: `*` crosses `/`, and a trailing `/` means the whole folder."""
        both = [
            [f"{each}*" if each.endswith("/") else each for each in given] for given in (self.include, self.exclude)
        ]
        return Globs(both[0]), Globs(both[1])

    def __reduce__(self) -> tuple[Any, ...]:
        """Without what is worked out."""
        return ModelRef, (self.uri, self.revision, self.include, self.exclude, self.lean, self.query)

    @property
    def url(self) -> str:
        """What is asked of an http(s) server. InvalidRequest where the query is not known any more."""
        return with_query(self.uri, self.query)

    def __str__(self) -> str:
        """The name for people."""
        name = display_name(self.uri)
        return f"{name}@{self.revision}" if self.revision else name


def _split_hub(uri: str, place: str, revision: str | None) -> tuple[str, str | None]:
    name, _, inline = place.strip("/").partition("@")
    if not _HUB_NAME.match(name) or ".." in name or "--" in name:
        raise InvalidRequest(
            f"{spoken(uri)!r} is not a Hub repository; give hf://org/name or org/name, with @revision."
        )
    if inline and revision and inline != revision:
        raise InvalidRequest(
            f"{name!r} is given with the revision {spoken(inline)!r}, but {spoken(revision)!r} was asked for; give one."
        )
    if "@" in place and not inline:
        raise InvalidRequest(f"{spoken(uri)!r} ends in '@' with no revision after it.")
    return name, inline or revision


@dataclass(frozen=True, slots=True)
class Checksum(Plain):
    """A check that the source publishes beside sha256: `git-sha1`, `md5` or `crc32c`, in lower-case hex."""

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
    """What a source says that a ref is right now.

    `place` says where, endpoint included (`s3://endpoint/bucket/prefix`); together with an entry's path, version and
    size it is the identity under which the node remembers a file's digest.
    """

    ref: ModelRef
    place: str
    revision: str
    entries: tuple[Entry, ...]
    open: bool = False  # The source says that anybody may read it.
    # The file on which the right to the whole place is proved, whether it was selected or not: the source chooses it,
    # no caller. None where a right is one file's, so that each is proved on its own.
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
        """The same place and revision with only some of its entries, which were checked already."""
        found = object.__new__(Listing)
        values = self.ref, self.place, self.revision, entries, self.open, self.probe
        for name, value in zip(self.__slots__, values, strict=True):
            object.__setattr__(found, name, value)
        return found

    def identity(self, entry: Entry) -> str:
        return _json([self.place, entry.path, entry.version, entry.size])


def listing_revision(entries: Iterable[Entry]) -> str:
    """A revision for places that have none: 40 hex digits over every path, size and version."""
    lines = sorted(f"{entry.path}\0{entry.size}\0{entry.version}\n" for entry in entries)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:40]


@dataclass(frozen=True, slots=True, order=True)
class ManifestFile:
    path: str
    size: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the node holds: files sorted by path. Its own digest names the snapshot."""

    files: tuple[ManifestFile, ...]
    digest: Digest = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", tuple(sorted(self.files, key=lambda file: file.path)))
        check_paths(file.path for file in self.files)
        lines = "".join([f"{f.digest} {f.size} {f.path}\n" for f in self.files])
        object.__setattr__(self, "digest", Digest.of(lines.encode()))

    @property
    def size(self) -> int:
        """Bytes as the caller sees them: a blob under two names counts twice."""
        return sum(file.size for file in self.files)

    @property
    def folders(self) -> list[str]:
        """Every directory that a file is in, outer ones first."""
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
    """How far a fill is. Bytes and files that the node already held count as done and as `cached_bytes`."""

    phase: str  # "resolving", "waiting", "fetching", "waiting for the source" or "publishing"
    done_bytes: int = 0
    total_bytes: int = 0
    cached_bytes: int = 0
    done_files: int = 0
    total_files: int = 0
