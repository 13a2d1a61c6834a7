"""Send many queries to a source at once, a bounded number at a time; the first failure ends them."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from contextvars import copy_context
from pathlib import Path
from typing import TypeVar

from cached import budget
from cached.sources.source import Source
from cached.sources.transport.ranges import denied
from cached.worker.blob_reader import BlobReader
from cached.worker.messages import Compare, Prove

Item = TypeVar("Item")

AT_ONCE = 16  # Queries of one request.
WHOLE = 4 << 20  # Bytes up to which a file is compared completely.
RANGES = 32  # Ranges compared of a larger one: two models that share half of their bytes agree in all of them …
COMPARED = 16 << 10  # … with a chance of one in four thousand million.
STEP = 1 << 20  # Bytes that are compared at a time.


class Askers:
    """Threads that help requests with many queries. The requesting thread works too, so that it makes progress however
    busy the helpers are with another request."""

    def __init__(self, threads: int) -> None:
        self._helpers = ThreadPoolExecutor(threads, "prove")

    def each(self, ask: Callable[[Item], None], items: Iterable[Item]) -> None:
        """Call `ask` for every item. Raise the first error; start no more calls after it, or once no caller waits."""
        todo, turn, failures = list(items), threading.Lock(), list[BaseException]()

        def work() -> None:
            while True:
                with turn:
                    if failures or not todo:
                        return
                    item = todo.pop()
                try:
                    budget.check()
                    ask(item)
                except BaseException as error:
                    failures.append(error)

        helping = [self._helpers.submit(copy_context().run, work) for _ in range(min(len(todo), AT_ONCE) - 1)]
        work()
        wait([helper for helper in helping if not helper.cancel()])  # Those not yet begun would find nothing to do.
        if failures:
            raise failures[0]


def prove(source: Source, askers: Askers, asked: Prove) -> None:
    listing = asked.listing
    askers.each(lambda entry: source.prove(listing, entry, asked.credentials, asked.timeout), listing.entries)


def compare(source: Source, askers: Askers, asked: Compare) -> None:
    """Raise SourceDenied if a file does not hold the bytes that the source gives."""
    askers.each(lambda path: _compare(source, asked, path), asked.copies)


def _compare(source: Source, asked: Compare, path: Path) -> None:
    """Compare ranges that a caller who claims to have the file cannot foresee; or the complete file."""
    listing, entry = asked.listing, asked.copies[path]
    with closing(BlobReader(path)) as ours, closing(source.open(listing, entry, asked.credentials)) as theirs:
        same = ours.size == entry.size
        for offset, length in _ranges(entry.size, asked.whole) if same else ():
            budget.check()
            same = same and ours.read(offset, length) == theirs.read(offset, length)
        if not same:
            raise denied(listing.ref, f"what the source lists as {entry.path} is not what it gives")


def _ranges(size: int, whole: bool) -> Iterator[tuple[int, int]]:
    """Yield the offset and length of each range to compare."""
    if whole or size <= WHOLE:
        yield from ((offset, min(STEP, size - offset)) for offset in range(0, max(size, 1), STEP))
        return
    yield from ((secrets.randbelow(size - COMPARED + 1), COMPARED) for _ in range(RANGES))
