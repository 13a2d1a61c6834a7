"""The use case that everything is for: a ref becomes a directory on this node."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Coroutine
from dataclasses import dataclass

from cached.config import Config
from cached.daemon.download import Batch
from cached.daemon.evict import Evictor, Freed
from cached.daemon.fetcher import Fetcher
from cached.daemon.fill import Fill
from cached.daemon.policy import check_loadable, check_weights
from cached.daemon.threads import Threads
from cached.daemon.usage import Uses
from cached.daemon.workers import Workers
from cached.errors import (
    AllHeld,
    DaemonUnavailable,
    DigestMismatch,
    NotCached,
    SourceChanged,
    SourceUnavailable,
    TooLarge,
    WorkerLost,
)
from cached.model import Credentials, Digest, Entry, Listing, Manifest, ManifestFile, ModelRef
from cached.store.blobs import ingest_key
from cached.store.index import Known
from cached.store.snapshots import Origin
from cached.store.store import Store
from cached.wire import Ready
from cached.worker.messages import Remote

log = logging.getLogger("cached.cache")

Wants = list[tuple[str, Entry]]  # What is missing, by the key of its download.


@dataclass(frozen=True, slots=True)
class Ask:
    """One caller's wish. `max_age` in seconds; None means the configured one."""

    ref: ModelRef
    max_age: float | None = None
    offline: bool = False
    require: str | None = None


@dataclass(slots=True)
class Counters:
    hits: int = 0
    misses: int = 0
    stale: int = 0
    failures: int = 0


class Cache:
    def __init__(self, config: Config, store: Store, workers: Workers, threads: Threads) -> None:
        self.config = config
        self.store = store
        self.uses = Uses(store)
        self.fetcher = Fetcher(config, store, workers, threads)
        self.counters = Counters()
        self.fills: dict[str, Fill] = {}
        self.workers = workers
        self._threads = threads
        self._evictor = Evictor(store)
        self._evicting = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()
        self._closing = False

    def acquire(self, ask: Ask, credentials: Credentials) -> Ready | Fill:
        """A hit at once, or the fill to wait for: one per ref, however many ask. NotCached when offline."""
        known = self._known(ask.ref)
        if known is not None:
            age = time.time() - known.checked_at
            limit = self.config.max_age if ask.max_age is None else ask.max_age
            fresh = ask.ref.immutable or 0 <= age <= limit
            if fresh or ask.offline:
                return self._hit(known, ask, stale=not fresh)
        if ask.offline:
            raise NotCached(f"{ask.ref} is not cached on this node; `cached pull` fetches it.")
        return self._fill(ask, credentials, known)

    def _known(self, ref: ModelRef) -> Known | None:
        known = self.store.index.find(ref.key)
        if known is None or not os.path.exists(self.store.snapshots.lock(known.snapshot)):
            return None
        return known

    def _hit(self, known: Known, ask: Ask, stale: bool) -> Ready:
        path = self.store.snapshots.path(known.snapshot)
        if ask.require == "llm":
            check_loadable(ask.ref, set(os.listdir(path)))
        self.counters.hits += 1
        self.counters.stale += stale
        self.uses.touch(known.snapshot)
        return self._ready(known.snapshot, known.revision, ask.ref, known.size, hit=True, stale=stale)

    def _ready(self, digest: Digest, revision: str, ref: ModelRef, size: int, hit: bool, stale: bool = False) -> Ready:
        path, lock = self.store.snapshots.path(digest), self.store.snapshots.lock(digest)
        return Ready(str(path), str(lock), str(digest), revision, str(ref), size, hit, stale)

    def _fill(self, ask: Ask, credentials: Credentials, known: Known | None) -> Fill:
        if self._closing:
            raise DaemonUnavailable("The daemon is shutting down; ask again in a moment.")
        key = f"{ask.ref.key} {ask.require}"
        fill = self.fills.get(key)
        if fill is None or fill.task is None or fill.task.cancelling():  # Whoever asks now did not give up.
            started = fill = self.fills[key] = Fill(ask.ref, paused=self.fetcher.paused)
            fill.task = asyncio.create_task(self._run(fill, ask, credentials, known))
            fill.task.add_done_callback(lambda task: self._ended(key, started, task))
        return fill

    def _ended(self, key: str, fill: Fill, task: asyncio.Task[Ready]) -> None:
        if self.fills.get(key) is fill:  # Else another has taken its place, and may have ended before it.
            del self.fills[key]
        ref = str(fill.ref)
        if task.cancelled():
            log.info("fill.cancelled", extra={"ref": ref})
        elif error := task.exception():
            self.counters.failures += 1
            log.warning("fill.failed", extra={"ref": ref, "why": str(error)})

    async def _run(self, fill: Fill, ask: Ask, credentials: Credentials, known: Known | None) -> Ready:
        for attempt in (1, 2):
            try:
                return await self._once(fill, ask, credentials, known)
            except (SourceChanged, DigestMismatch) as error:
                if attempt == 2:
                    raise
                log.info("fill.again", extra={"ref": str(ask.ref), "why": error.message})  # Once; then say so.
                fill.batch = Batch()
        raise AssertionError("unreachable")

    async def _once(self, fill: Fill, ask: Ask, credentials: Credentials, known: Known | None) -> Ready:
        """Resolve, and fetch what that names unless it is here."""
        fill.phase = "resolving"
        timeout = self.config.check_timeout if known else self.config.resolve_timeout
        try:
            async with asyncio.timeout(timeout * 2 if known else None):
                listing = await self.workers.resolve(ask.ref, credentials, float(timeout))
        except (SourceUnavailable, WorkerLost, TimeoutError) as error:
            if known is None:
                raise
            log.warning("serve.stale", extra={"ref": str(ask.ref), "why": str(error)})
            return self._hit(known, ask, stale=True)
        check_weights(listing, self.config.weights)
        if ask.require == "llm":
            check_loadable(ask.ref, {entry.path for entry in listing.entries})
        if known is not None and known.revision == listing.revision and self._known(ask.ref) is not None:
            await self._threads.disk(
                self.store.index.resolved, ask.ref.key, str(ask.ref), listing.revision, known.snapshot
            )
            return self._hit(known, ask, stale=False)
        return await self._fetch(fill, Remote(listing, credentials))

    async def _fetch(self, fill: Fill, remote: Remote) -> Ready:
        listing = remote.listing
        self.counters.misses += 1
        fill.phase = "waiting"
        keys = await self._threads.disk(_keys, listing)
        fill_id, digests, wants = await self._reserve(listing, keys)
        fill.total_files, fill.total_bytes = len(listing.entries), listing.size
        present = [entry for entry in listing.entries if entry.path in digests]
        fill.cached_files, fill.cached_bytes = len(present), sum(entry.size for entry in present)
        fill.phase = "fetching"
        try:
            # Biggest first: the last to end is then a small one.
            order = sorted(wants, key=lambda item: -item[1].size)
            found = await self.fetcher.fetch(remote, order, fill.batch)
            fill.phase = "publishing"
            digests.update({path: found[key] for path, key in keys.items() if key in found})
            return await self._commit(listing, await self._threads.disk(_manifest, listing, digests), fill_id)
        except BaseException:
            parts = await asyncio.shield(self._threads.disk(self.store.blobs.parts))
            await asyncio.shield(self._threads.disk(self.store.index.abandon, fill_id, parts))
            raise

    async def _commit(self, listing: Listing, manifest: Manifest, fill_id: int) -> Ready:
        ref = listing.ref
        origin = Origin(ref.key, str(ref), listing.revision)
        refs = {ref.key: (str(ref), listing.revision)}
        if ref.scheme == "hf":  # The commit that the name stood for is known now, and for ever.
            pinned = ref.at(listing.revision)
            refs[pinned.key] = (str(pinned), listing.revision)
        await self._threads.disk(self.store.commit, manifest, origin, refs, fill_id)
        self.uses.touch(manifest.digest)
        self._spawn(self._keep_below())
        return self._ready(manifest.digest, listing.revision, ref, manifest.size, hit=False)

    async def _reserve(
        self, listing: Listing, keys: dict[str, str]
    ) -> tuple[int, dict[str, Digest], list[tuple[str, Entry]]]:
        """Hold what is here and reserve for what is not: the fill's id, known digests by path, missing entries by key.

        Evicts when short. TooLarge when an empty store could not take it, AllHeld when nothing more may go.
        """
        usage = await self._threads.disk(self.store.usage)
        unique = sum({keys[entry.path]: entry.size for entry in listing.entries}.values())
        for _ in range(4):
            digests, wants = await self._threads.disk(self._split, listing, keys)
            missing = {key: entry.size for key, entry in wants}
            if unique > usage.limit:
                raise TooLarge(
                    f"{listing.ref} needs {unique:,} bytes, but the store may take {usage.limit:,}; "
                    "raise `limit`, or use a larger disk."
                )
            try:
                fill_id = await self._threads.disk(
                    self.store.index.begin, str(listing.ref), missing, set(digests.values()), usage.limit
                )
            except LookupError:  # A blob that we counted on was evicted meanwhile: look again.
                continue
            if fill_id is not None:
                return fill_id, digests, wants
            usage = await self._threads.disk(self.store.usage)
            short = usage.used + usage.reserved + sum(missing.values()) - usage.limit
            freed = await self.make_room(short)
            if freed.short and not freed.freed:
                break
            usage = await self._threads.disk(self.store.usage)
        raise AllHeld(
            f"There is no room for {listing.ref}: leases, pins and running fills hold the rest of the store; "
            "release or unpin something, or raise `limit`."
        )

    def _split(self, listing: Listing, keys: dict[str, str]) -> tuple[dict[str, Digest], Wants]:
        """Digests by path of what the node has, and what it lacks with the key to download it under."""
        index, blobs = self.store.index, self.store.blobs
        identities = {entry.path: listing.identity(entry) for entry in listing.entries if entry.digest is None}
        remembered = index.identities(identities.values())
        digests: dict[str, Digest] = {}
        wants: dict[str, Entry] = {}
        known = {row["digest"] for row in index.query("SELECT digest FROM blob")}
        for entry in listing.entries:
            digest = entry.digest or remembered.get(identities[entry.path])
            if digest is not None and digest.hex in known and blobs.size(digest) == entry.size:
                digests[entry.path] = digest
            else:
                wants[keys[entry.path]] = entry
        return digests, list(wants.items())

    async def make_room(self, need: int, dry_run: bool = False) -> Freed:
        """Evict until `need` bytes are freed, as far as that may be."""
        async with self._evicting:
            await self._threads.disk(self.uses.flush)
            return await self._threads.disk(self._evictor.free, need, dry_run)

    def excess(self, share: float) -> int:
        """Bytes above that share of the limit."""
        usage = self.store.usage()
        return max(0, usage.used + usage.reserved - int(usage.limit * share))

    async def _keep_below(self) -> None:
        """Above the high watermark: evict down to the low one, so that the next fill need not wait for it."""
        if await self._threads.disk(self.excess, self.config.high_watermark):
            await self.make_room(await self._threads.disk(self.excess, self.config.low_watermark))

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def close(self, patience: float) -> None:
        """Start nothing new, let running fills end for `patience` seconds, then park them."""
        self._closing = True
        tasks = [fill.task for fill in self.fills.values() if fill.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=patience)
        running = [task for task in tasks if not task.done()]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=1.0)
        await self._threads.disk(self.uses.flush)


def _keys(listing: Listing) -> dict[str, str]:
    """What each file's download is called, by path."""
    return {entry.path: ingest_key(listing.identity(entry), entry.digest) for entry in listing.entries}


def _manifest(listing: Listing, digests: dict[str, Digest]) -> Manifest:
    return Manifest(tuple(ManifestFile(entry.path, entry.size, digests[entry.path]) for entry in listing.entries))
