"""The central use case: turn a ref into a directory on this node. This file decides if a cached snapshot may be served,
if the source must be asked first, and if there is something to fetch."""

from __future__ import annotations

import asyncio
import logging
import time

from cached.access import Access
from cached.config import Config
from cached.daemon.access.callers import Caller
from cached.daemon.access.people import People
from cached.daemon.access.standing import Standing, Way, may_be_stale, way
from cached.daemon.acquire.authorization import Claim, Gate
from cached.daemon.acquire.counters import Counters
from cached.daemon.acquire.fill import Filler
from cached.daemon.acquire.fill_job import Fill
from cached.daemon.acquire.fills import Fills
from cached.daemon.acquire.granting import Granting
from cached.daemon.acquire.loadable import Loadable
from cached.daemon.acquire.placement import Places
from cached.daemon.acquire.request import Ask, Held, names_of, not_cached, ready
from cached.daemon.acquire.rights import Rights
from cached.daemon.space.disk import Disk
from cached.daemon.space.disks import Disks
from cached.daemon.space.reservation import Plan
from cached.daemon.transfer.network import Network
from cached.daemon.transfer.workers import Workers
from cached.errors import (
    CachedError,
    DigestMismatch,
    ModelIncomplete,
    ModelNotFound,
    NotFound,
    SourceChanged,
    SourceDenied,
    SourceUnavailable,
    StoreDegraded,
    WorkerLost,
)
from cached.model import Listing
from cached.wire import Ready

log = logging.getLogger("cached.cache")


class Cache:
    def __init__(self, config: Config, disks: Disks, workers: Workers) -> None:
        self.config = config
        self.disks = disks
        self.workers = workers
        self.network = Network(config)
        self.people = People(config)
        self.gate = Gate(config, disks)
        self.places = Places(config, disks, workers, self.network, self.people)
        self.counters = Counters()
        self.loadable = Loadable(workers)
        self.fills = Fills(self.counters)
        self._granting = Granting(config, disks, workers, self.places, self.gate.whose)
        self._filler = Filler(self.places, self.gate, self.loadable, self.counters)

    async def acquire(self, ask: Ask, caller: Caller) -> Ready | Fill:
        """Return the cached snapshot at once, or the fill to wait for: one per ref and credentials, however many
        callers request it.

        Raises NotCached when offline, also for a snapshot that the caller has not proved that it may read.
        """
        held = self._held(ask, caller)
        if held is not None and self._way(held, ask, caller) is Way.HIT:
            try:
                return await self._hit(held, ask, stale=not self._fresh(held, ask))
            except ModelIncomplete:
                if ask.offline or ask.ref.immutable:
                    raise  # Else the rest may have been uploaded since.
        if ask.offline and (held is None or self._way(held, ask, caller) is Way.WHOLE):
            raise not_cached(ask.ref)
        return self._fill(ask, caller, held)

    def _way(self, held: Held, ask: Ask, caller: Caller) -> Way:
        fresh, one_probe = self._fresh(held, ask), held.known.access.of_place
        return way(self._standing(held, ask, caller), fresh, ask.offline, one_probe)

    def _standing(self, held: Held, ask: Ask, caller: Caller) -> Standing:
        return self.gate.standing(held.disk, ask.ref, held.known.access, caller)

    def _fresh(self, held: Held, ask: Ask) -> bool:
        """Return True if the name need not be resolved again."""
        if not held.known.access.kind and self.config.access == "caller":
            return False  # Its readers are not known.
        limit = self.config.max_age if ask.max_age is None else ask.max_age
        return ask.ref.immutable or 0 <= time.time() - held.known.checked_at <= limit

    def _held(self, ask: Ask, caller: Caller) -> Held | None:
        """Return the snapshot that the ref meant to this caller when the source was last asked; None if none is cached.
        Of several, one that may be served without another request is preferred."""

        def whos(disk: Disk) -> tuple[str, ...] | None:
            return self.gate.whos(disk, ask.ref, caller)

        found = [
            Held(disk, known)
            for key in ask.keys
            for disk, known in self.disks.known(key, whos)
            if self.disks.servable(disk, known.snapshot)
        ]
        if len(found) < 2:
            return found[0] if found else None

        def rank(held: Held) -> tuple[bool, bool, float]:
            standing = self._standing(held, ask, caller)
            return standing.fresh and self._fresh(held, ask), standing.recent, held.known.checked_at

        return max(found, key=rank)

    async def _resolve(self, ask: Ask, caller: Caller, timeout: float) -> Listing:
        try:
            return await self.workers.resolve(ask.ref, caller, timeout, ask.require)
        except ModelIncomplete:
            raise  # It may be read, but is not complete.
        except (SourceDenied, ModelNotFound):
            await self.gate.refused_at(ask.ref, caller)
            raise

    async def _hit(self, held: Held, ask: Ask, stale: bool) -> Ready:
        known, snapshots = held.known, held.disk.store.snapshots
        if ask.require == "llm":
            await self.loadable.check(ask.ref, known.snapshot, snapshots.path(known.snapshot))
        if not ask.mending:
            self.counters.hits += 1
            self.counters.stale += stale
        return ready(held.disk, known.snapshot, known.revision, ask.ref, known.size, hit=True, stale=stale)

    def _fill(self, ask: Ask, caller: Caller, held: Held | None) -> Fill:
        key = f"{ask.ref.key} {ask.require} {ask.offline} {self.gate.whose.key(ask.ref, caller)}"
        fill = self.fills.join(
            key,
            caller,
            lambda: Fill(ask.ref, paused=self.network.paused),
            lambda fill: self._run(fill, ask, caller, held),
        )
        if len(fill.uids) > 1:
            self.network.files.give()  # The new user may have turns free that earlier users wait for.
        return fill

    async def _run(self, fill: Fill, ask: Ask, caller: Caller, held: Held | None) -> Ready:
        """Fill. Try once more when the source changed meanwhile or sent other bytes, and on the next disk when one
        fails."""
        changed = False
        while True:
            try:
                return await self._once(fill, ask, caller, held)
            except (SourceChanged, DigestMismatch) as error:
                if changed:
                    raise
                changed, why = True, error.message  # Once; the next time the error is raised.
            except StoreDegraded as error:
                if not error.lasting or not self.disks.writable:
                    raise
                why = error.message  # Its disk is out of the count now, so this ends.
            log.info("fill.again", extra={"ref": str(ask.ref), "why": why})
            fill.fetch_anew()

    async def _once(self, fill: Fill, ask: Ask, caller: Caller, held: Held | None) -> Ready:
        """Ask the source, and fetch the snapshot unless it is here. A refusal also forgets the caller's proof for what
        is cached."""
        fill.phase = "resolving"
        try:
            return await self._asked(fill, ask, caller, held)
        except ModelIncomplete:
            raise
        except (SourceDenied, NotFound):
            if held is not None:
                await self.gate.refused(held.disk, Claim(ask.ref, held.known.snapshot, held.known.access, caller))
            if ask.offline:
                raise not_cached(ask.ref) from None
            raise

    async def _asked(self, fill: Fill, ask: Ask, caller: Caller, held: Held | None) -> Ready:
        if held is None or self._way(held, ask, caller) is Way.WHOLE:
            if ask.offline:
                raise not_cached(ask.ref)
            held, listing = None, await self._resolve(ask, caller, float(self.config.resolve_timeout))
        else:
            try:
                found = await self._look_again(held, ask, caller)
            except (SourceUnavailable, WorkerLost) as error:
                return await self._stale(held, ask, caller, error)
            if found is None:
                return await self._hit(held, ask, stale=not self._fresh(held, ask))
            listing = found
        return await self._listed(fill, ask, caller, held, listing)

    async def _listed(self, fill: Fill, ask: Ask, caller: Caller, held: Held | None, listing: Listing) -> Ready:
        """Serve, renew or fetch by the listing. `held`: the snapshot to serve if the source cannot be asked; None if
        there is none."""
        rights = self._granting.rights(listing, caller)
        same = held is not None and held.known.revision == listing.revision and self._held(ask, caller) is not None
        if held is None or not (same or ask.offline):
            return await self._new(fill, ask, caller, held, rights)
        try:
            await self._granting.renew(rights)
        except (SourceUnavailable, WorkerLost) as error:
            return await self._stale(held, ask, caller, error)
        if same:
            await self._note_current(held, ask, caller, rights)
        return await self._hit(held, ask, stale=not same)

    async def _look_again(self, held: Held, ask: Ask, caller: Caller) -> Listing | None:
        """Return the source's current listing; None when only the caller's right was in question, and is now proved.
        Raises SourceUnavailable when the source does not answer in time, perhaps because other requests were queued
        before."""
        timeout, known = float(self.config.check_timeout), held.known
        # Bounded only where that helps: a timeout here does not show that the source is down, so callers whose proof
        # is not fresh would be refused.
        whole = timeout * 2 if self._standing(held, ask, caller).fresh else None
        try:
            async with asyncio.timeout(whole):
                if self._way(held, ask, caller) is not Way.PROVE:
                    return await self._resolve(ask, caller, timeout)
                probe = known.access.listing(ask.ref, known.revision)
                await self.workers.prove(probe, probe.entries, caller, timeout)
        except TimeoutError:
            raise SourceUnavailable(f"The source of {ask.ref} did not answer in time; try again later.") from None
        except ModelIncomplete:
            raise  # It may be read, but is not complete.
        except (SourceDenied, NotFound):
            await self.gate.refused(held.disk, Claim(ask.ref, known.snapshot, known.access, caller))
            raise
        await self.gate.proved(held.disk, Claim(ask.ref, known.snapshot, known.access, caller))
        return None

    async def _new(self, fill: Fill, ask: Ask, caller: Caller, held: Held | None, rights: Rights) -> Ready:
        """Serve, from any disk, or fetch a listing that is not yet known under this name, or not to this caller."""
        rights.pausing = fill.pause
        found = await self._granting.complete(rights, await self._granting.show(rights))
        if found is not None:
            await self._note_current(found, ask, caller, rights)
            return await self._hit(found, ask, stale=False)
        if not self.disks.writable and held is not None:  # The cached snapshot is better than nothing.
            return await self._stale(held, ask, caller, StoreDegraded(self.disks.problem or ""))
        self.disks.require_writable()
        return await self._filler.fill(fill, ask, rights)

    async def _stale(self, held: Held, ask: Ask, caller: Caller, error: CachedError) -> Ready:
        """Serve the cached snapshot, marked stale, because the source is unreachable. Raise `error` if the caller may
        not have it for that reason."""
        if not may_be_stale(self._standing(held, ask, caller), error):
            raise error
        log.warning("serve.stale", extra={"ref": str(ask.ref), "why": error.message})
        return await self._hit(held, ask, stale=True)

    async def _note_current(self, held: Held, ask: Ask, caller: Caller, rights: Rights) -> None:
        """Record that the name still means this snapshot. A disk that cannot record it still serves; the source is
        asked again next time."""
        access = Access.of(rights.listing, caller.with_own(ask.ref))
        claim = Claim(ask.ref, held.known.snapshot, access, caller)
        await self.gate.proved(held.disk, claim, names_of(rights.listing), rights.record)

    async def plan(self, ask: Ask, caller: Caller) -> Held | tuple[Disk, Plan]:
        """Return the effect of a pull: the disk, the bytes to fetch and the snapshots to evict; or the cached snapshot
        that it would serve.

        Raises NotCached when offline and nothing can be served.
        """
        held = self._held(ask, caller)
        if held is not None and self._way(held, ask, caller) is Way.HIT:
            return held
        if ask.offline:  # Nothing would be fetched, so acquire it at once.
            found = await self.acquire(ask, caller)
            if isinstance(found, Fill) and found.task is not None:
                await asyncio.shield(found.task)
            if held is None:
                raise not_cached(ask.ref)
            return held
        listing = await self._resolve(ask, caller, float(self.config.resolve_timeout))
        rights = self._granting.rights(listing, caller)
        return await self._granting.complete(rights, await self._granting.show_all(rights)) or (
            await self.places.plan(listing, caller)
        )

    async def flush(self) -> None:
        """Write down the uses of snapshots. A write that fails is tried again with the next flush."""
        for disk in self.disks.writable:
            await disk.forget_abandoned()
            try:
                await disk.do(disk.uses.flush)
            except CachedError as error:
                log.warning("uses.unwritten", extra={"root": str(disk.root), "why": error.message})

    async def close(self, patience: float) -> None:
        """Start nothing new, let running fills end for `patience` seconds, then park them."""
        await self.fills.close(patience)
        await self.flush()
