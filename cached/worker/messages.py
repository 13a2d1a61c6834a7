"""What crosses between the daemon and its workers, as frames of pickles.

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
RESOLVES = 16  # Questions to sources that one worker takes at a time, …
PROOFS = 16  # … and questions whether somebody may read, which do not wait for those.


@dataclass(frozen=True, slots=True)
class Hello:
    """The first thing that a worker hears."""

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
    """The first thing that a worker says: everything is imported."""

    pid: int


@dataclass(frozen=True, slots=True)
class Resolve:
    """Answered with a Listing. Where one file stands for the whole place, these credentials may read that. `require`
    names what it is to be fit for."""

    ref: ModelRef
    credentials: Credentials = field(repr=False)
    timeout: float
    require: str | None = None


@dataclass(frozen=True, slots=True)
class Prove:
    """Whether these credentials may read every file of the listing, at its version. Answered with None, or the source's
    first refusal."""

    listing: Listing
    credentials: Credentials = field(repr=False)
    timeout: float


@dataclass(frozen=True, slots=True)
class Compare:
    """Whether these files hold what the source gives these credentials for the entries: ranges of each are compared, or
    the `whole` of each. Answered with None, or SourceDenied."""

    listing: Listing
    copies: Mapping[Path, Entry]
    credentials: Credentials = field(repr=False)
    timeout: float
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Principal:
    """For whom the source takes these credentials. Answered with a name, or None."""

    ref: ModelRef
    credentials: Credentials = field(repr=False)
    timeout: float


@dataclass(frozen=True, slots=True)
class Remote:
    """Where files come from. The listing may be cut down to the entries that the request is about."""

    listing: Listing
    credentials: Credentials = field(repr=False)

    @property
    def origin(self) -> str:
        """Scheme and host: what shares a pace."""
        return "/".join(self.listing.place.split("/", 3)[:3])

    @property
    def group(self) -> str:
        """The model, for taking turns."""
        return f"{self.listing.place}@{self.listing.revision}"

    def only(self, *entries: Entry) -> Remote:
        return Remote(self.listing.part(entries), self.credentials)


@dataclass(frozen=True, slots=True)
class Into:
    """Where a file goes: which root, and under which key.

    `expected` is the digest of a damaged blob there that it replaces; `copy` a sound blob of these bytes on another
    root, to be read instead of the remote.
    """

    root: Path
    key: str
    expected: Digest | None = None
    copy: Path | None = None


@dataclass(frozen=True, slots=True)
class Open:
    """Begin or resume a large file; `transfer` is what it is called from then on. Answered with Opened."""

    transfer: int
    into: Into
    entry: Entry
    remote: Remote


@dataclass(frozen=True, slots=True)
class Opened:
    """`landed` in bytes; `whole` says that the source has an engine of its own for this file, and wants to use it."""

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
    """Fetch everything by the source's own engine, or piece by piece where that cannot be. Answered with None."""

    transfer: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Check and fsync what has landed, and let go of it. Answered with Verified."""

    transfer: int


@dataclass(frozen=True, slots=True)
class Close:
    """Let go of it: parked, or discarded. Answered with None, also when it is closed already."""

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
    """What can be published, and what ended it early."""

    verified: Mapping[str, Verified]
    error: CachedError | None


@dataclass(frozen=True, slots=True)
class Check:
    """Read a blob of this path again, see `checkup.check`. Answered with Checkup.

    `rate` in bytes per second bounds it; then it is work for idle times, and the disk serves everybody else first.
    """

    path: Path
    digest: Digest
    size: int
    pieces: bytes | None = field(repr=False)
    deep: bool
    rate: int = 0


@dataclass(frozen=True, slots=True)
class Inspect:
    """Whether an LLM engine could load what is in this directory. Answered with None, or ModelIncomplete."""

    ref: ModelRef
    folder: Path


@dataclass(frozen=True, slots=True)
class Shards:
    """Which shards the file `index`, that goes by this name, is about. Answered with their names, or
    ModelIncomplete."""

    ref: ModelRef
    name: str
    index: Path


Asking = Resolve | Prove | Compare | Principal  # What writes nothing, and may be asked of another process.
Question = Asking | Open | Read | ReadWhole | Finish | Close | Gather | Check | Inspect | Shards


@dataclass(frozen=True, slots=True)
class Cancel:
    """Nobody waits any more for the answer to the request of this number. Not answered."""

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
    """Bytes since the last one, by transfer: what counts as done (it shrinks when a piece breaks off), what came."""

    counts: Mapping[int, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Wanting:
    """A worker asks: may so many bytes of each of these keys be on the disk? Answered with Granted."""

    number: int
    transfer: int
    steps: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Granted:
    """They may, or why not."""

    number: int
    error: CachedError | None


def frame(message: object) -> bytes:
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(data)) + data
