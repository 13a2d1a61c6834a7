"""The interface of every kind of remote. Implementations are synchronous: workers call them in threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

from cached.access import Credentials
from cached.model import Entry, Listing
from cached.model_ref import ModelRef


class Reader(Protocol):
    """Read ranges of one entry at the version that its Listing named. Safe to use from several threads."""

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`. Raise SourceChanged if the remote has another version now."""

    def recheck(self, resumed: bool = False) -> None:
        """Check the version after the last read. Raise SourceChanged if it could not be pinned and has changed
        meanwhile.

        `resumed` says that some of the bytes were received by an earlier reader, of whose reads this one knows nothing.
        """

    def close(self) -> None: ...


@runtime_checkable
class FastReader(Reader, Protocol):
    """A reader with a fast path."""

    def stream(self, offset: int, length: int, sink: Callable[[memoryview], None]) -> bool:
        """Pass exactly those bytes to `sink`, in order, slice by slice; a slice is valid only during the call.

        Return False if the fast path cannot take this answer: `sink` has received nothing, and `read` finds the reason.
        """


@runtime_checkable
class WholeFileReader(Reader, Protocol):
    """A reader that may have an engine of its own for complete files."""

    @property
    def whole(self) -> bool:
        """Return True if the reader's own engine is wanted for this file."""

    def download(self, path: Path, progress: Callable[[int], None]) -> bool:
        """Fetch the complete file over `path`, which has its size already; pass counts of received bytes to `progress`.

        Return False if that is impossible: nothing was written. The bytes may be wrong; the caller checks them.
        """


class Source(Protocol):
    """A kind of place from which models are fetched. Raises only the errors of `cached.errors`."""

    def resolve(self, ref: ModelRef, credentials: Credentials, timeout: float) -> Listing:
        """Return the present meaning of `ref`: one immutable revision and the entries that the ref's patterns select.

        `timeout` in seconds bounds each network call. Raise ModelNotFound, RevisionNotFound, SourceDenied,
        SourceUnavailable, InvalidRequest.
        """

    def prove(self, listing: Listing, entry: Entry, credentials: Credentials, timeout: float) -> None:
        """Return only if these credentials may read this file at the version that the listing names, as the source
        answers a HEAD or the like. The version counts in every such request: a proof of another version is none.

        Raise SourceChanged if the version differs; SourceDenied if they may not read it, or it does not exist;
        SourceUnavailable if neither can be determined.
        """

    def principal(self, credentials: Credentials, timeout: float) -> str | None:
        """Return the identity that the source sees in these temporary keys, which are new at every start of a process.
        Return None if the source does not state it, or cannot be queried, or if these are not temporary keys of the
        caller."""

    def open(self, listing: Listing, entry: Entry, credentials: Credentials) -> Reader:
        """Return a reader of one file. Do no I/O where that can be avoided."""
