"""The pure part: what an answer to a range means, and gathering it."""

from __future__ import annotations

import time

import pytest

from cached.errors import CachedError, SourceChanged, SourceError, SourceUnavailable
from cached.sources.transport.ranges import MAX_SKIP, Collector, Span, bytes_to_skip

SPAN = Span("w.bin", 100, 50, 1000)


@pytest.mark.parametrize(
    ("status", "content_range", "length", "skip"),
    [
        (206, "bytes 100-149/1000", 50, 0),
        (206, "bytes 100-149/*", 50, 0),
        (206, "Bytes 100-149/1000 ", None, 0),
        (200, "bytes 100-149/1000", 50, 0),
        (200, None, 1000, 100),
        (200, None, None, 100),
    ],
)
def test_right_answers(status: int, content_range: str | None, length: int | None, skip: int) -> None:
    assert bytes_to_skip(SPAN, status, content_range, length) == skip


@pytest.mark.parametrize(
    ("status", "content_range", "length", "error"),
    [
        (206, "bytes 100-149/1001", 50, SourceChanged),
        (200, None, 999, SourceChanged),
        (206, "bytes 0-49/1000", 50, SourceUnavailable),
        (206, "bytes 100-148/1000", 49, SourceUnavailable),
        (206, "bytes 100-149/1000", 51, SourceUnavailable),
        (206, None, 50, SourceUnavailable),
        (206, "items 100-149/1000", 50, SourceUnavailable),
    ],
)
def test_wrong_answers(status: int, content_range: str | None, length: int | None, error: type[CachedError]) -> None:
    with pytest.raises(error):
        bytes_to_skip(SPAN, status, content_range, length)


def test_large_files_need_ranges() -> None:
    with pytest.raises(SourceError, match="ranges") as caught:
        bytes_to_skip(Span("w.bin", MAX_SKIP + 1, 1, 1 << 40), 200, None, 1 << 40)
    assert not caught.value.retryable


@pytest.mark.parametrize("size", [1, 3, 100, 1000])
def test_collector_takes_the_span_and_nothing_else(size: int) -> None:
    body = bytes(range(250)) * 4
    collector = Collector(SPAN, 100, time.monotonic() + 5)
    for at in range(0, len(body), size):
        if not collector.take(body[at : at + size]):
            break
    assert collector.bytes() == body[100:150]


def test_collector_refuses_a_short_body() -> None:
    collector = Collector(SPAN, 0, time.monotonic() + 5)
    assert collector.take(b"x" * 49)
    with pytest.raises(SourceUnavailable, match="1 bytes before the end"):
        collector.bytes()


def test_collector_watches_the_clock() -> None:
    with pytest.raises(SourceUnavailable, match="slowly"):
        Collector(SPAN, 0, time.monotonic() - 1).take(b"x")
