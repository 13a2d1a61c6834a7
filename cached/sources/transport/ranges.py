"""What every ranged read over HTTP must check, decided without I/O, and the sentences for what went wrong."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cached.errors import CachedError, ModelNotFound, SourceChanged, SourceDenied, SourceError, SourceUnavailable
from cached.model_ref import ModelRef

MAX_SKIP = 64 << 20  # A server without ranges costs a file's start again for each piece: bearable only near the start.
MAX_RETRY_AFTER = 300.0

_CONTENT_RANGE = re.compile(r"bytes\s+(\d+)-(\d+)/(\d+|\*)\s*\Z", re.IGNORECASE)


def spoken(ref: ModelRef) -> str:
    """The ref as messages name it."""
    return str(ref)


@dataclass(frozen=True, slots=True)
class Span:
    """`length` bytes from `offset` of the file `name`, which has `size` bytes at the version that was listed."""

    name: str
    offset: int
    length: int
    size: int

    @property
    def header(self) -> str:
        return f"bytes={self.offset}-{self.offset + self.length - 1}"


def bytes_to_skip(span: Span, status: int, content_range: str | None, content_length: int | None) -> int:
    """How many bytes of a 200 or 206 body come before the span. The rest of the body begins with the span.

    SourceChanged when the file's size is another one, SourceUnavailable when the answer is not what was asked for.
    A right Content-Range counts under either status: some servers send it with a 200.
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
    """Gathers exactly one span out of a body that comes in chunks, and watches the clock.

    The clock is what a server cannot beat by sending one byte before every time-out.
    """

    def __init__(self, span: Span, skip: int, deadline: float) -> None:
        self._span, self._skip, self._deadline = span, skip, deadline
        self._chunks: list[bytes] = []
        self._missing = span.length

    def take(self, chunk: bytes) -> bool:
        """Whether more is wanted. SourceUnavailable after the deadline."""
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
        """The span. SourceUnavailable when the body ended before it did."""
        if self._missing:
            raise SourceUnavailable(
                f"The source ended {self._span.name} {self._missing} bytes before the end of the range; try again."
            )
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)


def changed(name: str, how: str) -> SourceChanged:
    return SourceChanged(f"{name} changed at the source while it was read ({how}); ask again for its present version.")


def denied(ref: ModelRef, advice: str, said: str = "") -> SourceDenied:
    """`said` tells the operator, and nobody else, whether it is absent or forbidden."""
    error = SourceDenied(f"{spoken(ref)} does not exist, or you may not read it: {advice}.")
    error.said = said
    return error


@contextmanager
def proving(ref: ModelRef) -> Iterator[None]:
    """In a proof of access: what is absent is denied like what is forbidden, whatever else asking for it would say."""
    try:
        yield
    except ModelNotFound:
        raise denied(ref, "check the URI, and your credentials for it", "it is absent") from None


def unavailable(ref: ModelRef, why: str, retry_after: str | None = None, *, seen: bool = False) -> SourceUnavailable:
    """`retry_after` is the header's text: seconds or a date. `seen`: see SourceUnavailable."""
    error = SourceUnavailable(f"The source of {spoken(ref)} cannot be used right now ({why}); try again later.")
    error.retry_after = _seconds(retry_after)
    error.seen = seen
    return error


def from_status(ref: ModelRef, status: int, advice: str, retry_after: str | None = None) -> CachedError:
    """The error for a failed answer that is the same for every kind of source."""
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
