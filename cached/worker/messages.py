"""The messages between the daemon and its workers, as frames of pickles.

Pickles, because both ends are one program with one set of rights: a worker can already do to the store whatever the
daemon can. Nothing that a remote sent is ever unpickled.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cached.access import Credentials
from cached.config import Config
from cached.errors import CachedError
from cached.model import Digest, Entry, Listing
from cached.model_ref import ModelRef
from cached.store.blobs.ingest import Piece, Verified

HEADER = struct.Struct("!I")
RESOLVES = 16  # Resolve requests that one worker runs at a time, …
PROOFS = 16  # … and proofs of access, which do not wait for those.


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message to a worker: the settings."""

    settings: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, config: Config) -> Hello:
        values = {item.name: getattr(config, item.name) for item in fields(config)}
        plain = {name: dict(table) for name, table in config.source_options.items()}  # A proxy cannot be pickled.
        return cls({**values, "source_options": plain, "budgets": dict(config.budgets)})

    @property
    def config(self) -> Config:
        return Config(**self.settings)


@dataclass(frozen=True, slots=True)
class Started:
    """The first message from a worker: everything is imported."""

    pid: int


@dataclass(frozen=True, slots=True)
class Resolve:
    """Resolve a ref. Answered with a Listing. Where one file proves the right to the whole place, these credentials may
    read that file. `require` names the use for which the model has to be fit."""

    ref: ModelRef
    credentials: Credentials = field(repr=False)
    timeout: float
    require: str | None = None


@dataclass(frozen=True, slots=True)
class Prove:
    """Check that these credentials may read every file of the listing, at its version. Answered with None, or the
    source's first refusal."""

    listing: Listing
    credentials: Credentials = field(repr=False)
    timeout: float


@dataclass(frozen=True, slots=True)
class Compare:
    """Check that these files hold the bytes that the source gives these credentials for the entries: ranges of each are
    compared, or with `whole` all bytes. Answered with None, or SourceDenied."""

    listing: Listing
    copies: Mapping[Path, Entry]
    credentials: Credentials = field(repr=False)
    timeout: float
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Principal:
    """Identify the owner of these credentials, as the source sees it. Answered with a name, or None."""

    ref: ModelRef
    credentials: Credentials = field(repr=False)
    timeout: float


@dataclass(frozen=True, slots=True)
class Remote:
    """The remote that files are fetched from. The listing may be cut down to the entries of the request."""

    listing: Listing
    credentials: Credentials = field(repr=False)

    @property
    def origin(self) -> str:
        """Return scheme and host: one origin shares one pace."""
        return "/".join(self.listing.place.split("/", 3)[:3])

    @property
    def group(self) -> str:
        """Return the name of the model, for taking turns."""
        return f"{self.listing.place}@{self.listing.revision}"

    def only(self, *entries: Entry) -> Remote:
        return Remote(self.listing.part(entries), self.credentials)


@dataclass(frozen=True, slots=True)
class Into:
    """The destination of a file: a root, and a key in it.

    `expected` is the digest of a damaged blob there that it replaces; `copy` an undamaged blob of these bytes on
    another root, to be read instead of the remote.
    """

    root: Path
    key: str
    expected: Digest | None = None
    copy: Path | None = None


@dataclass(frozen=True, slots=True)
class Open:
    """Begin or resume a large file; `transfer` is its number from then on. Answered with Opened."""

    transfer: int
    into: Into
    entry: Entry
    remote: Remote


@dataclass(frozen=True, slots=True)
class Opened:
    """The state of an opened file: `landed` in bytes; `whole` if the source has, and wants to use, its own engine for
    it."""

    landed: int
    missing: tuple[Piece, ...]
    whole: bool


@dataclass(frozen=True, slots=True)
class Read:
    """Fetch one piece. Answered with None."""

    transfer: int
    piece: Piece


@dataclass(frozen=True, slots=True)
class ReadWhole:
    """Fetch the file with the source's own engine, or piece by piece where that is impossible. Answered with None."""

    transfer: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Check and fsync the bytes that were written, and release the file. Answered with Verified."""

    transfer: int


@dataclass(frozen=True, slots=True)
class Close:
    """Release the file: parked, or discarded. Answered with None, also when it is closed already."""

    transfer: int
    discard: bool


@dataclass(frozen=True, slots=True)
class Gather:
    """Fetch small files by key, check and fsync them. Answered with Gathered."""

    transfer: int
    root: Path
    wants: Mapping[str, Entry]
    remote: Remote


@dataclass(frozen=True, slots=True)
class Gathered:
    """The files that can be published, and the error that ended the fetch early."""

    verified: Mapping[str, Verified]
    error: CachedError | None


@dataclass(frozen=True, slots=True)
class Check:
    """Read the blob at this path again, see `verify.check`. Answered with Checkup.

    `rate` in bytes per second bounds it; it is then work for idle times, and the disk serves all other requests first.
    """

    path: Path
    digest: Digest
    size: int
    pieces: bytes | None = field(repr=False)
    deep: bool
    rate: int = 0


@dataclass(frozen=True, slots=True)
class Inspect:
    """Check that an LLM engine could load the files in this directory. Answered with None, or ModelIncomplete."""

    ref: ModelRef
    folder: Path


@dataclass(frozen=True, slots=True)
class Shards:
    """List the shards that the file `index` names; `name` is its name in the model. Answered with their names, or
    ModelIncomplete."""

    ref: ModelRef
    name: str
    index: Path


Asking = Resolve | Prove | Compare | Principal  # These write nothing, and may be sent to another process.
Question = Asking | Open | Read | ReadWhole | Finish | Close | Gather | Check | Inspect | Shards


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel the request of this number, for whose answer no caller waits any more. Not answered."""

    number: int


@dataclass(frozen=True, slots=True)
class Request:
    number: int
    question: Question


@dataclass(frozen=True, slots=True)
class Reply:
    number: int
    value: Any
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class Came:
    """The bytes since the last message, by transfer: bytes done (they shrink when a piece breaks off), and bytes
    received."""

    counts: Mapping[int, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Wanting:
    """Request room on the disk for so many bytes of each of these keys. Sent by a worker, answered with Granted."""

    number: int
    transfer: int
    steps: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Granted:
    """The daemon's answer to Wanting: `error` is None, or the reason for a refusal."""

    number: int
    error: CachedError | None


def frame(message: object) -> bytes:
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(data)) + data
