"""What every kind of remote must offer. Implementations are synchronous: workers call them in threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

from cached.access import Credentials
from cached.model import Entry, Listing
from cached.model_ref import ModelRef


class Reader(Protocol):
    """Ranged reads of one entry at the version that its Listing named. Safe to use from several threads."""

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`. SourceChanged when the remote is no longer that version."""

    def recheck(self, resumed: bool = False) -> None:
        """After the last read: SourceChanged if the version could not be pinned and has moved meanwhile.

        `resumed` says that some of the bytes came by an earlier reader, of whose reads this one knows nothing.
        """

    def close(self) -> None: ...


@runtime_checkable
class FastReader(Reader, Protocol):
    """A reader with a fast lane."""

    def stream(self, offset: int, length: int, sink: Callable[[memoryview], None]) -> bool:
        """Give exactly those bytes to `sink`, in order, slice by slice; a slice is valid only during the call.

        False when the fast lane is not for this answer: sink has got nothing, and `read` will say why.
        """


@runtime_checkable
class WholeFileReader(Reader, Protocol):
    """A reader that may have an engine of its own for whole files."""

    @property
    def whole(self) -> bool:
        """Whether that engine is wanted for this file."""

    def download(self, path: Path, progress: Callable[[int], None]) -> bool:
        """Fetch the whole file over `path`, which has its size already; `progress` is told of bytes as they come.

        False when that cannot be: nothing was written. What was written need not be right; the caller checks it.
        """


class Source(Protocol):
    """A kind of place that models come from. Raises only the errors of `cached.errors`."""

    def resolve(self, ref: ModelRef, credentials: Credentials, timeout: float) -> Listing:
        """What `ref` is right now: one immutable revision and the entries that the ref's patterns select.

        `timeout` in seconds bounds each network call. ModelNotFound, RevisionNotFound, SourceDenied,
        SourceUnavailable, InvalidRequest.
        """

    def prove(self, listing: Listing, entry: Entry, credentials: Credentials, timeout: float) -> None:
        """Return only if these credentials may read this file at the version that the listing names, as the source says
        of a HEAD or the like. On every way to ask: a proof of another version is none.

        SourceChanged of another version; SourceDenied when they may not read it, or it is not there; SourceUnavailable
        when that cannot be told.
        """

    def principal(self, credentials: Credentials, timeout: float) -> str | None:
        """For whom the source takes these temporary keys, of which a process gets new ones with every start. None where
        it does not say so, or cannot be asked, and where the keys are no temporary ones of the caller's."""

    def open(self, listing: Listing, entry: Entry, credentials: Credentials) -> Reader:
        """A reader of one file. Does no I/O by itself if it can help it."""
