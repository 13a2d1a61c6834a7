"""Getting missing blobs: one download per blob however many ask, each from its first byte to its name."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from cached.config import Config
from cached.daemon.pace import Bandwidth
from cached.daemon.streams import Streams
from cached.daemon.threads import Threads
from cached.daemon.turns import Part, Work
from cached.errors import CachedError, SourceChanged
from cached.model import PIECE_BYTES, Credentials, Digest, Entry, Listing
from cached.sources.base import FastReader, Reader, Source, WholeFileReader
from cached.store.ingest import Ingest, Piece, Verified
from cached.store.store import Store

log = logging.getLogger("cached.fetch")

STARTED = 256  # Files of one model that may be under way or waiting for a connection; the others are only names yet.


@dataclass(eq=False, slots=True)
class Download:
    """One blob on its way, and how many wait for it. `done` and `fetched` in bytes."""

    key: str
    size: int
    origin: str
    task: asyncio.Task[Digest] | None = None
    done: int = 0
    fetched: int = 0
    waiters: int = 0


@dataclass(frozen=True, slots=True)
class Remote:
    """Where a model's files come from."""

    source: Source
    listing: Listing
    credentials: Credentials

    @property
    def origin(self) -> str:
        """Scheme and host: what shares a pace."""
        return "/".join(self.listing.place.split("/", 3)[:3])

    @property
    def group(self) -> str:
        return f"{self.listing.place}@{self.listing.revision}"


@dataclass(eq=False, slots=True)
class Batch:
    """The downloads of one fill: those under way, and what has ended."""

    running: set[Download] = field(default_factory=set)
    ended_bytes: int = 0
    ended_files: int = 0

    @property
    def done(self) -> int:
        return self.ended_bytes + sum(download.done for download in self.running)


class Fetcher:
    def __init__(self, config: Config, store: Store, threads: Threads) -> None:
        self._store = store
        self._threads = threads
        self._running: dict[str, Download] = {}
        self._streams = Streams(config.min_connections, config.connections, config.retries, threads)
        self._bandwidth = Bandwidth(int(config.bandwidth))
        # Large files open at once: enough to keep the connections busy.
        self._files = asyncio.Semaphore(2 * config.connections)
        self._counting = threading.Lock()
        self.fetched_bytes = 0

    def paused(self, batch: Batch) -> bool:
        """Whether everything that is left waits for an origin that asked for a pause."""
        return bool(batch.running) and all(self._streams.paused(download.origin) for download in batch.running)

    async def fetch(self, remote: Remote, wants: Iterable[tuple[str, Entry]], batch: Batch) -> dict[str, Digest]:
        """Every wanted blob's digest by key, started in this order. On the first error the others are left, and go on
        only if somebody else waits for them."""
        found: dict[str, Digest] = {}
        left = iter(wants)

        async def take() -> None:
            for key, entry in left:
                found[key] = await self._one(remote, key, entry, batch)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(STARTED):
                    group.create_task(take())
        except ExceptionGroup as errors:
            raise _first(errors) from None
        return found

    async def _one(self, remote: Remote, key: str, entry: Entry, batch: Batch) -> Digest:
        """Start or join the blob's download and wait for it. When the last waiter is cancelled, so is the download."""
        download = self._running.get(key)
        if download is None:
            download = self._running[key] = Download(key, entry.size, remote.origin)
            download.task = asyncio.create_task(self._run(download, remote, entry))
            download.task.add_done_callback(lambda task: self._ended(key, task))
        assert download.task is not None  # Set just above, or by whoever started it.
        download.waiters += 1
        batch.running.add(download)
        try:
            digest = await asyncio.shield(download.task)
            batch.ended_bytes += entry.size
            batch.ended_files += 1
            return digest
        finally:
            batch.running.discard(download)
            download.waiters -= 1
            if download.waiters == 0 and not download.task.done():
                download.task.cancel()
                await asyncio.wait([download.task])

    def _ended(self, key: str, task: asyncio.Task[Digest]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # Seen here even when every waiter has left.

    async def _run(self, download: Download, remote: Remote, entry: Entry) -> Digest:
        started = time.monotonic()
        if entry.size <= PIECE_BYTES:
            digest = await self._small(download, remote, entry)
        else:
            async with self._files:
                digest = await self._large(download, remote, entry)
        extra = {"source": str(remote.listing.ref), "file": entry.path, "bytes": download.fetched}
        log.info("blob.fetched", extra={**extra, "seconds": round(time.monotonic() - started, 3)})
        return digest

    async def _small(self, download: Download, remote: Remote, entry: Entry) -> Digest:
        """A file of one piece: everything in one call, for its turns between threads would cost more than its bytes."""
        found: list[Verified] = []

        def whole() -> None:
            ingest = self._store.blobs.ingest(download.key, entry)
            try:
                reader = remote.source.open(remote.listing, entry, remote.credentials)
                try:
                    for piece in ingest.missing():
                        self._read(reader, ingest, piece, download)
                    reader.recheck()
                finally:
                    reader.close()
                found.append(self._publish(download, remote, ingest))
            except BaseException:
                ingest.discard()  # There is nothing to resume.
                raise
            finally:
                ingest.close()

        await self._streams.run(Work(entry.path, download.origin, remote.group, [Part(whole)]))
        return found[0].digest

    async def _large(self, download: Download, remote: Remote, entry: Entry) -> Digest:
        ingest = await self._threads.disk(self._store.blobs.ingest, download.key, entry)
        try:
            reader = await self._threads.net(remote.source.open, remote.listing, entry, remote.credentials)
            try:
                download.done = ingest.landed_bytes
                await self._streams.run(
                    Work(entry.path, download.origin, remote.group, self._parts(reader, ingest, download))
                )
                await self._threads.net(reader.recheck)
            finally:
                reader.close()
            verified = await self._threads.disk(self._publish, download, remote, ingest)
        except SourceChanged:
            ingest.discard()  # Bytes of a version that is gone are of no use to anyone.
            raise
        finally:
            ingest.close()
        return verified.digest

    def _parts(self, reader: Reader, ingest: Ingest, download: Download) -> list[Part]:
        """What is missing, the first piece last."""
        missing = ingest.missing()
        if isinstance(reader, WholeFileReader) and len(missing) == ingest.count:
            return [Part(lambda: self._download(reader, ingest, missing, download))]
        return [Part(functools.partial(self._read, reader, ingest, piece, download)) for piece in reversed(missing)]

    def _publish(self, download: Download, remote: Remote, ingest: Ingest) -> Verified:
        verified = ingest.verify()
        self._store.publish(ingest, verified, remote.listing.identity(ingest.entry), download.key)
        return verified

    def _read(self, reader: Reader, ingest: Ingest, piece: Piece, download: Download) -> None:
        """One piece, through the reader's fast lane where it has one and the answer is plain."""
        came = 0
        try:
            with ingest.landing(piece) as landing:

                def sink(data: memoryview) -> None:
                    nonlocal came
                    landing.write(data)
                    came += len(data)
                    self._count(download, len(data))

                if not (isinstance(reader, FastReader) and reader.stream(piece.offset, piece.length, sink)):
                    sink(memoryview(reader.read(piece.offset, piece.length)))
        except BaseException:
            with self._counting:
                download.done -= came
            raise

    def _count(self, download: Download, count: int) -> None:
        with self._counting:
            download.done += count
            download.fetched += count
            self.fetched_bytes += count
            self._streams.came(download.origin, count)
        self._bandwidth.take(count)

    def _download(self, reader: WholeFileReader, ingest: Ingest, missing: list[Piece], download: Download) -> None:
        """The whole file by the reader's own engine, then piece by piece through the same checks as everything."""
        if not reader.download(ingest.part, functools.partial(self._count, download)):
            for piece in missing:
                if piece in ingest.missing():
                    self._read(reader, ingest, piece, download)
            return
        ingest.adopt()


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    """The error to report of several readers': a named one rather than a surprise."""
    return next((error for error in errors.exceptions if isinstance(error, CachedError)), errors.exceptions[0])
