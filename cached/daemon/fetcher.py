"""Getting missing blobs: one download per blob however many ask, pieces read in parallel, retries where they help."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass

from cached.config import Config
from cached.daemon.threads import Threads
from cached.errors import CachedError, SizeMismatch, SourceChanged, SourceUnavailable
from cached.model import Credentials, Digest, Entry, Listing
from cached.sources.base import FastReader, Reader, Source
from cached.store.ingest import Ingest, Piece
from cached.store.store import Store

log = logging.getLogger("cached.fetch")

FIRST_PAUSE = 0.2  # Seconds before the first retry; doubles, with jitter, up to LONGEST_PAUSE.
LONGEST_PAUSE = 10.0
LONGEST_ASKED = 60.0  # Of a Retry-After; the caller should hear of an origin that wants more.


@dataclass(eq=False, slots=True)
class Download:
    """One blob on its way, and how many wait for it."""

    key: str
    size: int
    task: asyncio.Task[Digest] | None = None
    done: int = 0
    fetched: int = 0
    waiters: int = 0


@dataclass(slots=True)
class _Work:
    """What the readers of one file share."""

    ingest: Ingest
    reader: Reader
    pieces: list[Piece]
    download: Download


class Fetcher:
    def __init__(self, config: Config, store: Store, threads: Threads) -> None:
        self._config = config
        self._store = store
        self._threads = threads
        self._running: dict[str, Download] = {}
        self._slots = asyncio.Semaphore(config.connections)
        # Files open at once: enough to keep the connections busy, few enough for a model of 100,000 files.
        self._files = asyncio.Semaphore(2 * config.connections)
        self.fetched_bytes = 0

    def start(self, key: str, source: Source, listing: Listing, entry: Entry, credentials: Credentials) -> Download:
        """The running download of this blob, or a new one. Whoever starts or joins one must `wait` for it."""
        download = self._running.get(key)
        if download is None:
            download = self._running[key] = Download(key, entry.size)
            download.task = asyncio.create_task(self._in_turn(download, source, listing, entry, credentials))
            download.task.add_done_callback(lambda task: self._ended(key, task))
        download.waiters += 1
        return download

    async def wait(self, download: Download) -> Digest:
        """Its digest, or its error. When the last waiter is cancelled, so is the download, and its part is parked."""
        assert download.task is not None  # `start` sets it.
        try:
            return await asyncio.shield(download.task)
        finally:
            download.waiters -= 1
            if download.waiters == 0 and not download.task.done():
                download.task.cancel()
                await asyncio.wait([download.task])

    async def wait_all(self, downloads: list[Download]) -> list[Digest]:
        """Every digest, in order. On the first error the others are left, and go on only if somebody else waits."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self.wait(download)) for download in downloads]
        except ExceptionGroup as errors:
            raise _first(errors) from None
        return [task.result() for task in tasks]

    def _ended(self, key: str, task: asyncio.Task[Digest]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # Seen here even when every waiter has left.

    async def _in_turn(
        self, download: Download, source: Source, listing: Listing, entry: Entry, credentials: Credentials
    ) -> Digest:
        async with self._files:
            return await self._run(download, source, listing, entry, credentials)

    async def _run(
        self, download: Download, source: Source, listing: Listing, entry: Entry, credentials: Credentials
    ) -> Digest:
        started = time.monotonic()
        ingest = await self._threads.disk(self._store.blobs.ingest, download.key, entry)
        try:
            reader = await self._threads.net(source.open, listing, entry, credentials)
            try:
                await self._pieces(_Work(ingest, reader, ingest.missing()[::-1], download))
                await self._threads.net(reader.recheck)
            finally:
                reader.close()
            verified = await self._threads.disk(ingest.verify)
            await self._threads.disk(self._store.publish, ingest, verified, listing.identity(entry), download.key)
        except SourceChanged:
            ingest.discard()  # Bytes of a version that is gone are of no use to anyone.
            raise
        finally:
            ingest.close()
        seconds = round(time.monotonic() - started, 3)
        extra = {"source": str(listing.ref), "file": entry.path, "bytes": download.fetched, "seconds": seconds}
        log.info("blob.fetched", extra=extra)
        return verified.digest

    async def _pieces(self, work: _Work) -> None:
        """Read what is missing with as many readers as there are pieces, up to `connections` over all downloads."""
        work.download.done = work.ingest.landed_bytes
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._config.connections, len(work.pieces))):
                    group.create_task(self._reader(work))
        except ExceptionGroup as errors:
            raise _first(errors) from None

    async def _reader(self, work: _Work) -> None:
        while work.pieces:
            piece = work.pieces.pop()
            async with self._slots:
                await self._piece(work, piece)
            work.download.done += piece.length
            work.download.fetched += piece.length
            self.fetched_bytes += piece.length

    async def _piece(self, work: _Work, piece: Piece) -> None:
        for attempt in range(1, self._config.retries + 1):
            try:
                await self._threads.net(_read, work.reader, work.ingest, piece)
                return
            except (SourceUnavailable, SizeMismatch) as error:
                if attempt == self._config.retries:
                    raise
                pause = _pause(attempt, error)
                log.warning(
                    "piece.retry", extra={"file": work.ingest.entry.path, "why": error.message, "in": round(pause, 2)}
                )
                await asyncio.sleep(pause)


def _pause(attempt: int, error: CachedError) -> float:
    """Seconds to wait after that attempt: twice as long each time, with jitter, and never less than the source asks."""
    own = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)
    asked = error.retry_after if isinstance(error, SourceUnavailable) else None
    return max(own, min(asked or 0.0, LONGEST_ASKED))


def _read(reader: Reader, ingest: Ingest, piece: Piece) -> None:
    """One piece, through the reader's fast lane where it has one."""
    if isinstance(reader, FastReader):
        with ingest.landing(piece) as landing:
            if reader.stream(piece.offset, piece.length, landing.write):
                return
            landing.write(memoryview(reader.read(piece.offset, piece.length)))
    else:
        ingest.land(piece, reader.read(piece.offset, piece.length))


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    """The error to report of several readers': a named one rather than a surprise."""
    return next((error for error in errors.exceptions if isinstance(error, CachedError)), errors.exceptions[0])
