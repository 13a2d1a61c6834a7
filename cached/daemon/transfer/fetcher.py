"""Fetch missing blobs: one download per blob, however many callers request it, from first byte to publication."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from cached.config import Config
from cached.daemon.runtime.endings import first_of
from cached.daemon.space.disk import Disk
from cached.daemon.transfer.bundles import SMALL, Bundles
from cached.daemon.transfer.download import Batch, Download
from cached.daemon.transfer.fair_queue import Part, Work
from cached.daemon.transfer.network import Network
from cached.daemon.transfer.publish_batcher import Publishing
from cached.daemon.transfer.workers import Secure, Transfer, Workers
from cached.errors import (
    AllHeld,
    CorruptBlob,
    NotFound,
    SourceChanged,
    SourceError,
    SourceUnavailable,
    WorkerLost,
)
from cached.model import Digest, Entry
from cached.store.blobs.ingest import Verified
from cached.store.publish import Arrival
from cached.worker.messages import Into, Remote

log = logging.getLogger("cached.fetch")

STARTED = 256  # Downloads of one model in progress or waiting for a connection; the others are only names.


class Fetcher:
    """Fetch blobs onto one disk."""

    def __init__(
        self,
        config: Config,
        disk: Disk,
        workers: Workers,
        network: Network,
        elsewhere: Callable[[Digest], Path | None],
        doubt: Callable[[Path], None],
        secure: Secure,
    ) -> None:
        """Take its disk and its collaborators. `elsewhere` finds a copy of a blob on another disk of this node; `doubt`
        is called with a copy that was damaged. `secure` makes room before bytes are received, see `Room.secure`."""
        self._config = config
        self._disk = disk
        self._workers = workers
        self._elsewhere, self._doubt, self._secure = elsewhere, doubt, secure
        self._publishing = Publishing(disk)
        self._running: dict[str, Download] = {}
        self._bundles = Bundles(self._running, 2 * config.connections)
        self._network = network
        self._streams, self._files = network.streams, network.files
        self._unsound: set[Digest] = set()  # Digests whose copies elsewhere turned out to be damaged.

    def joined(self, remote: Remote, wants: Mapping[str, Entry]) -> list[Entry]:
        """Return the entries of `wants` that are already being downloaded with other credentials."""
        return self._bundles.joined(remote, wants)

    async def fetch(self, remote: Remote, wants: Mapping[str, Entry], batch: Batch) -> dict[str, Digest]:
        """Fetch the wanted blobs, started in this order, and return their digests by key. `batch.read` then names those
        that these credentials read themselves. The first error is raised; the other downloads continue only if another
        fill waits for them."""
        found: dict[str, Digest] = {}
        left = self._bundles.planned(remote, wants)

        async def take() -> None:
            for download in left:
                found.update(await self._wait(download, remote, batch, wants))

        try:
            with self._files.wanted(remote.group, batch.uids):
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(STARTED, len(wants))):
                        group.create_task(take())
        except ExceptionGroup as errors:
            raise first_of(errors) from None
        return found

    async def _wait(
        self, download: Download, remote: Remote, batch: Batch, wanted: Mapping[str, Entry]
    ) -> dict[str, Digest]:
        """Wait for the download, starting it unless it runs. When its last waiter is cancelled, so is the download."""
        if download.task is not None and download.task.cancelling():  # Its last waiter left: too late to join.
            await asyncio.wait([download.task])
            return await self._wait_again(download, remote, batch, wanted)
        if download.task is None:
            if any(key in self._running for key in download.wants):  # Another fill started it since it was planned.
                return await self._wait_again(download, remote, batch, wanted)
            self._running.update(dict.fromkeys(download.wants, download))
            download.task = asyncio.create_task(self._run(download, remote))
            download.task.add_done_callback(lambda task: self._ended(download, task))
        download.waiters += 1
        own = download.serves(remote.listing.place, remote.credentials)
        ours = download.wants.keys() & wanted.keys()  # A joined bundle may contain files of other fills.
        batch.running[download] = sum(wanted[key].size for key in ours)
        try:
            with self._joining(download, remote, batch):
                digests = await asyncio.shield(download.task)
            batch.ended_bytes += sum(wanted[key].size for key in ours)
            batch.ended_files += len(ours)
            if own:
                batch.read |= download.read & ours
            return digests
        except (SourceError, NotFound, CorruptBlob):
            if own:
                raise
            await asyncio.sleep(0)  # By then its end is recorded, and it cannot be joined again.
        finally:
            batch.running.pop(download, None)
            download.waiters -= 1
            if download.waiters == 0 and not download.task.done():
                download.task.cancel()
                await asyncio.wait([download.task])
        return await self._wait_again(download, remote, batch, wanted)  # With the credentials of this caller.

    def _joining(self, download: Download, remote: Remote, batch: Batch) -> AbstractContextManager[None]:
        """Count a joined download of another model for this fill's users too, so that they need not wait for the users
        who started it."""
        return nullcontext() if download.group == remote.group else self._files.wanted(download.group, batch.uids)

    async def _wait_again(
        self, download: Download, remote: Remote, batch: Batch, wanted: Mapping[str, Entry]
    ) -> dict[str, Digest]:
        found: dict[str, Digest] = {}
        for other in self._bundles.plan(remote, {key: wanted[key] for key in download.wants if key in wanted}):
            found.update(await self._wait(other, remote, batch, wanted))
        return found

    def _ended(self, download: Download, task: asyncio.Task[dict[str, Digest]]) -> None:
        for key in download.wants:
            del self._running[key]
        if not task.cancelled():
            task.exception()  # Seen here even when every waiter has left.

    async def _run(self, download: Download, remote: Remote) -> dict[str, Digest]:
        started = time.monotonic()
        entries = list(download.wants.values())
        digests = await self._disk.do(self._arrived, download, remote)
        if len(digests) == len(entries):
            return digests
        if entries[0].size <= SMALL:
            await self._small(download, remote, digests)
        else:
            async with self._files.turn(remote.group):
                await self._again(download, functools.partial(self._large, download, remote, digests))
        extra = {"source": str(remote.listing.ref), "file": entries[0].path, "files": len(entries)}
        log.info(
            "blobs.fetched",
            extra={**extra, "bytes": download.fetched, "seconds": round(time.monotonic() - started, 3)},
        )
        return digests

    def _arrived(self, download: Download, remote: Remote) -> dict[str, Digest]:
        """Return the digests of files that another download has fetched since this one was planned."""
        wants = {key: (entry, remote.listing.identity(entry)) for key, entry in download.wants.items()}
        return self._disk.store.take_arrived(wants)

    async def _again(self, download: Download, call: Callable[[], Awaitable[None]]) -> None:
        """Call, and try again on WorkerLost, up to `retries` tries in all; the worker may have died of another file.
        Then raise it."""
        for left in reversed(range(self._config.retries)):
            try:
                await call()
                return
            except WorkerLost as error:
                if not left:
                    raise
                log.warning(
                    "files.again", extra={"file": next(iter(download.wants.values())).path, "why": error.message}
                )

    async def _small(self, download: Download, remote: Remote, digests: dict[str, Digest]) -> None:
        """Fetch small files, in one turn unless they have to be tried again. Files received before one failed are
        published."""
        found: dict[str, Verified] = {}
        gather = functools.partial(self._gather, download, remote, digests, found)
        part = Part(functools.partial(self._again, download, gather))
        name = next(iter(download.wants.values())).path
        try:
            with self._publishing.coming():
                await self._streams.run(Work(name, download.origin, remote.group, [part], small=True))
        finally:
            await self._publish(found, download, remote, digests)

    async def _gather(
        self, download: Download, remote: Remote, digests: dict[str, Digest], found: dict[str, Verified]
    ) -> None:
        """Fetch the remaining files once. Files received before one failed are published at once, and not fetched
        again."""
        left = {key: entry for key, entry in download.wants.items() if key not in digests}
        download.done = download.size - sum(entry.size for entry in left.values())
        count = functools.partial(self._count, download)
        gathered = await self._workers.gather(
            self._disk.root, left, remote, count, functools.partial(self._room, download)
        )
        found.update(gathered.verified)
        if gathered.error is not None:
            await self._publish(found, download, remote, digests)
            raise gathered.error

    async def _publish(
        self, found: dict[str, Verified], download: Download, remote: Remote, digests: dict[str, Digest]
    ) -> None:
        """Publish the verified files, add their digests to `digests`, and empty `found`."""
        download.read |= found.keys()
        await self._publishing.publish(_arrivals(found, download, remote))
        digests.update({key: each.digest for key, each in found.items()})
        found.clear()

    async def _large(self, download: Download, remote: Remote, digests: dict[str, Digest]) -> None:
        ((key, entry),) = download.wants.items()
        into = await self._disk.do(self._into, key, entry)
        try:
            found, read = await self._transfer(into, entry, download, remote)
        except (CorruptBlob, SourceUnavailable):
            if into.copy is None:
                raise
            self._unsound.add(Digest(into.copy.name))
            self._doubt(into.copy)
            found, read = await self._transfer(replace(into, copy=None), entry, download, remote)
        if read:
            download.read.add(key)
        await self._disk.do(self._disk.store.publish, _arrivals({key: found}, download, remote))
        digests[key] = found.digest

    def _into(self, key: str, entry: Entry) -> Into:
        expected = self._disk.store.wanted_back(key)
        digest = entry.digest or expected
        copy = None if digest is None or digest in self._unsound else self._elsewhere(digest)
        return Into(self._disk.root, key, expected, copy)

    async def _transfer(self, into: Into, entry: Entry, download: Download, remote: Remote) -> tuple[Verified, bool]:
        """Fetch one large file; return it, and True if every byte was read there just now. Bytes that had landed
        earlier may come from other credentials."""
        count = functools.partial(self._count, download)
        room = functools.partial(self._room, download)
        if into.expected is not None:  # Intact parts of the damaged blob are copied, wherever in the file they are.
            await room({into.key: entry.size})
        async with self._workers.transfer(into, entry, remote, count, room) as transfer:
            download.done = transfer.landed
            read = into.copy is None and transfer.landed == 0
            if transfer.whole:
                parts = [Part(functools.partial(self._read_whole, transfer, room, {into.key: entry.size}))]
            else:  # The first piece last: it is taken from the end.
                parts = [Part(functools.partial(transfer.read, piece)) for piece in reversed(transfer.missing)]
            try:
                await self._streams.run(Work(entry.path, download.origin, remote.group, parts))
            except SourceChanged:
                transfer.discard = True  # Bytes of a version that is gone are useless.
                raise
            return await transfer.finish(), read

    async def _read_whole(self, transfer: Transfer, room: Secure, whole: Mapping[str, int]) -> None:
        """Secure room for the whole file, then read it: an engine that reads whole files requests no room before it
        writes."""
        await room(whole)
        await transfer.read_whole()

    async def _room(self, download: Download, steps: Mapping[str, int]) -> None:
        """Secure room for bytes that are about to be written. Raise AllHeld if no caller waits any more, so that
        nothing is evicted for them."""
        if not download.waiters:
            raise AllHeld("Nobody waits for this file any more; what has landed of it is kept.")
        await self._secure(steps)

    def _count(self, download: Download, done: int, came: int) -> None:
        download.done += done
        download.fetched += came
        self._network.fetched_bytes += came
        self._streams.came(download.origin, came)


def _arrivals(found: Mapping[str, Verified], download: Download, remote: Remote) -> list[Arrival]:
    """Return `found`, by key, as arrivals. A file known by its digest is identified as this remote file only if it was
    read there."""
    identity, wants = remote.listing.identity, download.wants
    return [
        Arrival(key, verified, identity(wants[key]) if key in download.read or wants[key].digest is None else None)
        for key, verified in found.items()
    ]
