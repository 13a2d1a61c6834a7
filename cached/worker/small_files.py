"""Fetch the small files of one model, one after the other on one connection, and sync them together."""

from __future__ import annotations

from cached.errors import CachedError, SizeMismatch
from cached.model import Entry
from cached.sources.source import Source
from cached.store.blobs.blobs import Blobs
from cached.store.blobs.ingest import Verified
from cached.store.blobs.small_ingest import SmallIngest
from cached.worker.ahead import Ask
from cached.worker.byte_counts import Bandwidth, Count
from cached.worker.messages import Gather, Gathered


class SmallFiles:
    """Files of one piece, which have nothing to resume: each is in memory until it is complete and correct."""

    def __init__(self, source: Source, blobs: Blobs, bandwidth: Bandwidth, asked: Gather, ask: Ask) -> None:
        """Prepare to fetch the files. `ask` is called for room before bytes are written: for all of them together, once
        the first file is here."""
        self._source, self._blobs, self._bandwidth, self._asked = source, blobs, bandwidth, asked
        self._ask: Ask | None = ask
        self._buffer = memoryview(bytearray(max((entry.size for entry in asked.wants.values()), default=0)))

    def gather(self, count: Count) -> Gathered:
        """Fetch the files. The first failure ends it; files received before it can still be published."""
        landed: dict[str, SmallIngest] = {}
        try:
            return self._gather(landed, count)
        finally:
            for ingest in landed.values():
                ingest.close()

    def _gather(self, landed: dict[str, SmallIngest], count: Count) -> Gathered:
        error: CachedError | None = None
        try:
            for key, entry in self._asked.wants.items():
                landed[key] = self._one(key, entry, count)
        except CachedError as failure:
            error = failure
        verified: dict[str, Verified] = {}
        for key, ingest in landed.items():
            try:
                verified[key] = ingest.sync()
            except CachedError as failure:
                error = error or failure
        return Gathered(verified, error)

    def _one(self, key: str, entry: Entry, count: Count) -> SmallIngest:
        before = count.done
        try:
            data = self._fetch(entry, count)
            if self._ask is not None:
                self._ask({key: entry.size for key, entry in self._asked.wants.items()})
                self._ask = None
            return self._blobs.small_ingest(key, entry, data)
        except BaseException:
            count.done = before  # The bytes of a file count as done only when it is complete.
            raise

    def _fetch(self, entry: Entry, count: Count) -> memoryview:
        remote, buffer, came = self._asked.remote, self._buffer, 0

        def sink(data: memoryview) -> None:
            nonlocal came
            if came + len(data) > entry.size:
                raise SizeMismatch(f"{entry.path} sent more than the {entry.size} bytes that were asked for.")
            buffer[came : came + len(data)] = data
            came += len(data)
            count.add(len(data))
            self._bandwidth.take(len(data))

        reader = self._source.open(remote.listing, entry, remote.credentials)
        try:
            # Not by isinstance: on a protocol, for each of thousands of files, its cost shows.
            if entry.size and not (hasattr(reader, "stream") and reader.stream(0, entry.size, sink)):
                sink(memoryview(reader.read(0, entry.size)))
            reader.recheck()
        finally:
            reader.close()
        if came != entry.size:
            raise SizeMismatch(f"{entry.path} sent {came} bytes where {entry.size} were asked for.")
        return buffer[:came]
