"""The checks of every ranged read over HTTP, decided without I/O, and the messages of failures."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cached.errors import CachedError, ModelNotFound, SourceChanged, SourceDenied, SourceError, SourceUnavailable
from cached.model_ref import ModelRef

MAX_SKIP = 64 << 20  # A server without ranges sends a file's start again for each piece: bearable only near the start.
MAX_RETRY_AFTER = 300.0

_CONTENT_RANGE = re.compile(r"bytes\s+(\d+)-(\d+)/(\d+|\*)\s*\Z", re.IGNORECASE)


def spoken(ref: ModelRef) -> str:
    """Return the ref as messages name it."""
    return str(ref)


@dataclass(frozen=True, slots=True)
class Span:
    """A range: `length` bytes from `offset` of the file `name`, which has `size` bytes at the listed version."""

    name: str
    offset: int
    length: int
    size: int

    @property
    def header(self) -> str:
        return f"bytes={self.offset}-{self.offset + self.length - 1}"


def bytes_to_skip(span: Span, status: int, content_range: str | None, content_length: int | None) -> int:
    """Return the number of bytes before the span in a 200 or 206 body. The rest of the body begins with the span.

    Raise SourceChanged if the file has another size, SourceUnavailable if the answer is not for the requested range,
    SourceError if the server ignores ranges and the span is far into the file. A correct Content-Range counts under
    either status: some servers send it with a 200.
    """
    match = _CONTENT_RANGE.match(content_range or "")
    if match:
        if match[3] != "*" and int(match[3]) != span.size:
            raise changed(span.name, f"it has {match[3]} bytes now, not {span.size}")
        right = (int(match[1]), int(match[2])) == (span.offset, span.offset + span.length - 1)
        if not right or content_length not in (None, span.length):
            raise SourceUnavailable(f"The source answered {span.name} with another range than asked for; try again.")
        return 0
    if status == 206:
        raise SourceUnavailable(f"The source answered {span.name} with a part and did not say which; try again.")
    if content_length not in (None, span.size):
        raise changed(span.name, f"it has {content_length} bytes now, not {span.size}")
    if span.offset > MAX_SKIP:
        raise SourceError(f"The source of {span.name} ignores ranges, which files this large need; use another source.")
    return span.offset


class Collector:
    """Collect exactly one span from a body that is received in chunks, within a deadline.

    A server cannot extend the deadline by sending one byte before every time-out.
    """

    def __init__(self, span: Span, skip: int, deadline: float) -> None:
        self._span, self._skip, self._deadline = span, skip, deadline
        self._chunks: list[bytes] = []
        self._missing = span.length

    def take(self, chunk: bytes) -> bool:
        """Add a chunk, and return True if more is wanted. Raise SourceUnavailable after the deadline."""
        if time.monotonic() > self._deadline:
            raise SourceUnavailable(f"The source sends {self._span.name} too slowly; try again later.")
        if self._skip:
            dropped = min(self._skip, len(chunk))
            self._skip -= dropped
            chunk = chunk[dropped:]
        kept = chunk[: self._missing]
        self._missing -= len(kept)
        self._chunks.append(kept)
        return self._missing > 0

    def bytes(self) -> bytes:
        """Return the span. Raise SourceUnavailable if the body ended before it did."""
        if self._missing:
            raise SourceUnavailable(
                f"The source ended {self._span.name} {self._missing} bytes before the end of the range; try again."
            )
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)


def changed(name: str, how: str) -> SourceChanged:
    return SourceChanged(f"{name} changed at the source while it was read ({how}); ask again for its present version.")


def denied(ref: ModelRef, advice: str, said: str = "") -> SourceDenied:
    """Return a SourceDenied. `said` tells the operator alone if the model is absent or forbidden."""
    error = SourceDenied(f"{spoken(ref)} does not exist, or you may not read it: {advice}.")
    error.said = said
    return error


@contextmanager
def proving(ref: ModelRef) -> Iterator[None]:
    """Raise SourceDenied for an absent model, as for a forbidden one, whatever another request for it would raise. Used
    in proofs of access."""
    try:
        yield
    except ModelNotFound:
        raise denied(ref, "check the URI, and your credentials for it", "it is absent") from None


def unavailable(ref: ModelRef, why: str, retry_after: str | None = None, *, seen: bool = False) -> SourceUnavailable:
    """Return a SourceUnavailable. `retry_after` is the header's text: seconds or a date. `seen` is its attribute."""
    error = SourceUnavailable(f"The source of {spoken(ref)} cannot be used right now ({why}); try again later.")
    error.retry_after = _seconds(retry_after)
    error.seen = seen
    return error


def from_status(ref: ModelRef, status: int, advice: str, retry_after: str | None = None) -> CachedError:
    """Return the error for a failed answer, where it is the same for every kind of source."""
    if status in (401, 403):
        return denied(ref, advice, f"HTTP {status}")
    if status in (408, 425, 429) or status >= 500:
        return unavailable(ref, f"HTTP {status}", retry_after, seen=status >= 500)
    return SourceError(f"The source of {spoken(ref)} answered HTTP {status}, which is not understood; check the URI.")


def _seconds(header: str | None) -> float | None:
    if not header:
        return None
    try:
        wanted = float(header)
    except ValueError:
        try:
            wanted = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return min(max(wanted, 0.0), MAX_RETRY_AFTER) if wanted == wanted else None
