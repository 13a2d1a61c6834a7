"""Getting missing blobs: one download per blob however many ask, each from its first byte to its name."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections.abc import Iterable

from cached.config import Config
from cached.daemon.bundle import Bundle
from cached.daemon.download import Batch, Download, Remote
from cached.daemon.pace import Bandwidth
from cached.daemon.streams import Streams
from cached.daemon.threads import Threads
from cached.daemon.turns import Part, Work
from cached.errors import CachedError, SourceChanged
from cached.model import PIECE_BYTES, Digest, Entry
from cached.sources.base import FastReader, Reader, WholeFileReader
from cached.store.ingest import Ingest, Piece
from cached.store.store import Arrival, Store

log = logging.getLogger("cached.fetch")

STARTED = 256  # Downloads of one model that may be under way or waiting for a connection; the others are only names.
SMALL = 1 << 20  # Bytes up to which files are fetched several at a time: their turns would cost more than their bytes.
BUNDLE = 64  # Files at most in one such turn.


class Fetcher:
    def __init__(self, config: Config, store: Store, threads: Threads) -> None:
        self._config = config
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
        left = iter(self._plan(remote, dict(wants)))

        async def take() -> None:
            for download in left:
                found.update(await self._wait(download, remote, batch))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(STARTED):
                    group.create_task(take())
        except ExceptionGroup as errors:
            raise _first(errors) from None
        return found

    def _plan(self, remote: Remote, wants: dict[str, Entry]) -> list[Download]:
        """Running downloads to join, and new ones: large files alone, small ones together."""
        joined = {id(self._running[key]): self._running[key] for key in wants if key in self._running}
        new = {key: entry for key, entry in wants.items() if key not in self._running}
        small = [key for key, entry in new.items() if entry.size <= SMALL]
        step = min(BUNDLE, max(1, len(small) // (2 * self._config.connections)))
        bundles = [[key] for key in new if new[key].size > SMALL]
        bundles += [small[start : start + step] for start in range(0, len(small), step)]
        return [*joined.values(), *(Download({key: new[key] for key in keys}, remote.origin) for keys in bundles)]

    async def _wait(self, download: Download, remote: Remote, batch: Batch) -> dict[str, Digest]:
        """Start the download unless it runs. When its last waiter is cancelled, so is the download."""
        if download.task is None:
            again = [self._running[key] for key in download.wants if key in self._running]
            if again:  # Somebody else has started one of these since the plan was made.
                return await self._wait_again(download, remote, batch)
            self._running.update(dict.fromkeys(download.wants, download))
            download.task = asyncio.create_task(self._run(download, remote))
            download.task.add_done_callback(lambda task: self._ended(download, task))
        download.waiters += 1
        batch.running.add(download)
        try:
            digests = await asyncio.shield(download.task)
            batch.ended_bytes += download.size
            batch.ended_files += len(digests)
            return digests
        finally:
            batch.running.discard(download)
            download.waiters -= 1
            if download.waiters == 0 and not download.task.done():
                download.task.cancel()
                await asyncio.wait([download.task])

    async def _wait_again(self, download: Download, remote: Remote, batch: Batch) -> dict[str, Digest]:
        found: dict[str, Digest] = {}
        for other in self._plan(remote, download.wants):
            found.update(await self._wait(other, remote, batch))
        return found

    def _ended(self, download: Download, task: asyncio.Task[dict[str, Digest]]) -> None:
        for key in download.wants:
            del self._running[key]
        if not task.cancelled():
            task.exception()  # Seen here even when every waiter has left.

    async def _run(self, download: Download, remote: Remote) -> dict[str, Digest]:
        started = time.monotonic()
        entries = list(download.wants.values())
        if entries[0].size <= PIECE_BYTES:
            bundle = Bundle(self._store, self._read, remote, download)
            work = Work(entries[0].path, download.origin, remote.group, [Part(bundle.run)])
            await self._streams.run(work)
            digests = bundle.digests
        else:
            async with self._files:
                digests = await self._large(download, remote, entries[0])
        extra = {"source": str(remote.listing.ref), "file": entries[0].path, "files": len(entries)}
        log.info(
            "blobs.fetched",
            extra={**extra, "bytes": download.fetched, "seconds": round(time.monotonic() - started, 3)},
        )
        return digests

    async def _large(self, download: Download, remote: Remote, entry: Entry) -> dict[str, Digest]:
        (key,) = download.wants
        ingest = await self._threads.disk(self._store.blobs.ingest, key, entry)
        try:
            reader = await self._threads.net(remote.source.open, remote.listing, entry, remote.credentials)
            try:
                download.done = ingest.landed_bytes
                parts = self._parts(reader, ingest, download)
                await self._streams.run(Work(entry.path, download.origin, remote.group, parts))
                await self._threads.net(reader.recheck)
            finally:
                reader.close()
            verified = await self._threads.disk(ingest.verify)
            arrival = Arrival(ingest, verified, remote.listing.identity(entry), key)
            await self._threads.disk(self._store.publish, [arrival])
        except SourceChanged:
            ingest.discard()  # Bytes of a version that is gone are of no use to anyone.
            raise
        finally:
            ingest.close()
        return {key: verified.digest}

    def _parts(self, reader: Reader, ingest: Ingest, download: Download) -> list[Part]:
        """What is missing, the first piece last."""
        missing = ingest.missing()
        if isinstance(reader, WholeFileReader) and reader.whole and len(missing) == ingest.count:
            return [Part(lambda: self._download(reader, ingest, missing, download))]
        return [Part(functools.partial(self._read, reader, ingest, piece, download)) for piece in reversed(missing)]

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
        try:
            done = reader.download(ingest.part, functools.partial(self._count, download))
        except BaseException:
            download.done = 0
            raise
        if done:
            ingest.adopt()
        else:
            for piece in missing:
                self._read(reader, ingest, piece, download)


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    """The error to report of several readers': a named one rather than a surprise."""
    return next((error for error in errors.exceptions if isinstance(error, CachedError)), errors.exceptions[0])
