"""Room on one disk for what is to be fetched: what is there already, what must be reserved, what has to go for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from cached.config import Config
from cached.daemon.disk import Disk
from cached.daemon.evict import Budget, Evictor, Freed, Victim, Wish, budget_of
from cached.errors import AllHeld, CachedError, TooLarge
from cached.model import Digest, Entry, Listing
from cached.store.blobs import ingest_key

TRIES = 4  # Looks at the store that may each find that it has changed meanwhile.


@dataclass(frozen=True, slots=True)
class Needs:
    """A listing as a disk sees it: digests by path of what is there; what is missing, by the key to fetch it by."""

    listing: Listing
    keys: Mapping[str, str]  # By path, of every file.
    digests: Mapping[str, Digest]
    wants: Mapping[str, Entry]
    begun: int  # Bytes of what is wanted and has been begun here, or is to replace something damaged here.

    @property
    def missing(self) -> int:
        """Bytes."""
        return sum(entry.size for entry in self.wants.values())

    @property
    def unique(self) -> int:
        """Bytes of the whole listing, each content once."""
        return sum({self.keys[entry.path]: entry.size for entry in self.listing.entries}.values())

    @property
    def ties(self) -> int:
        """Bytes that speak for this disk."""
        return self.unique - self.missing + self.begun


@dataclass(frozen=True, slots=True)
class Reserved:
    """A fill that may begin."""

    fill: int
    needs: Needs


@dataclass(frozen=True, slots=True)
class Plan:
    """What a fill would mean: `why` says why it cannot be, and is None when it would fit."""

    needs: Needs
    victims: tuple[Victim, ...]
    why: str | None


class Room:
    """Use from the event loop only."""

    def __init__(self, config: Config, disk: Disk) -> None:
        self._config = config
        self._disk = disk
        self._evictor = Evictor(disk.store, config.min_residency, config.budgets)
        self._evicting = asyncio.Lock()

    async def needs(self, listing: Listing) -> Needs:
        return await self._disk.do(self._needs, listing)

    async def reserve(self, listing: Listing) -> Reserved:
        """Hold what is here and reserve for what is not, evicting when short.

        TooLarge when an empty store could not take it, AllHeld when nothing more may go, StoreDegraded.
        """
        self._disk.require_writable()
        ref, store = str(listing.ref), self._disk.store
        for _ in range(TRIES):
            needs = await self.needs(listing)
            usage = await self._disk.do(store.usage)
            self._refuse_too_large(needs, usage.limit + usage.quarantined)
            if (budget := budget_of(ref, self._config.budgets)) and not await self._keep_budget(budget, needs):
                raise AllHeld(f"There is no room for {ref}: leases, pins and running fills hold {_spoken(budget)}.")
            missing = {key: entry.size for key, entry in needs.wants.items()}
            try:
                fill = await self._disk.do(store.index.begin, ref, missing, set(needs.digests.values()), usage.limit)
            except LookupError:  # A blob that we counted on was evicted meanwhile: look again.
                continue
            if fill is not None:
                return Reserved(fill, needs)
            usage = await self._disk.do(store.usage)
            short = usage.used + usage.reserved + needs.missing - usage.limit
            freed = await self.make(short, Wish(f"to make room for {ref}"))
            if freed.short and not freed.freed:
                break
        raise AllHeld(
            f"There is no room for {ref}: leases, pins and running fills hold the rest of the store; "
            "release or unpin something, or raise `limit`."
        )

    async def plan(self, listing: Listing) -> Plan:
        """What `reserve` would find, without changing anything."""
        needs = await self.needs(listing)
        usage = await self._disk.do(self._disk.store.usage)
        ref = str(listing.ref)
        try:
            self._disk.require_writable()
            self._refuse_too_large(needs, usage.limit + usage.quarantined)
        except CachedError as error:
            return Plan(needs, (), error.message)
        short = usage.used + usage.reserved + needs.missing - usage.limit
        found = await self._disk.do(self._evictor.plan, max(0, short), Wish(f"to make room for {ref}"))
        victims, missing = list(found.victims), found.short
        if budget := budget_of(ref, self._config.budgets):
            over = await self._disk.do(self._evictor.spent, budget) + needs.missing - budget.limit
            within = await self._disk.do(self._evictor.plan, max(0, over), _over(budget))
            gone = {victim.digest for victim in victims}
            victims += [victim for victim in within.victims if victim.digest not in gone]
            missing = max(missing, within.short)
        why = f"{missing:,} bytes too little may go: leases, pins and running fills hold the rest." if missing else None
        return Plan(needs, tuple(victims), why)

    async def make(self, need: int, wish: Wish, dry_run: bool = False) -> Freed:
        """Evict until `need` bytes are freed, as far as that may be."""
        async with self._evicting:
            if dry_run:
                return await self._disk.do(self._evictor.plan, need, wish)
            self._disk.require_writable()
            await self._disk.do(self._disk.uses.flush)
            dropped = await self._disk.do(self._drop_quarantined, need, False)
            freed = await self._disk.do(self._evictor.free, need - dropped, wish)
            # Last, because its good pieces would have to be fetched again.
            dropped += await self._disk.do(self._drop_quarantined, freed.short, True)
            return Freed(freed.victims, freed.freed + dropped, max(0, need - freed.freed - dropped))

    async def keep_below(self) -> None:
        """Above the high watermark: evict down to the low one, so that the next fill need not wait for it."""
        if self._disk.degraded is None and await self._disk.do(self.excess, self._config.high_watermark) > 0:
            need = await self._disk.do(self.excess, self._config.low_watermark)
            await self.make(need, Wish("to get below the low watermark", spare_young=True))

    def excess(self, share: float) -> int:
        """Bytes above that share of the limit. Synchronous."""
        usage = self._disk.store.usage()
        return max(0, usage.used + usage.reserved - int(usage.limit * share))

    async def _keep_budget(self, budget: Budget, needs: Needs) -> bool:
        """Whether the listing fits its budget, once others of the same budget have gone."""
        if needs.unique > budget.limit:
            raise TooLarge(f"{needs.listing.ref} needs {needs.unique:,} bytes, more than {_spoken(budget)}; raise it.")
        over = await self._disk.do(self._evictor.spent, budget) + needs.missing - budget.limit
        return over <= 0 or (await self.make(over, _over(budget))).short == 0

    def _refuse_too_large(self, needs: Needs, limit: int) -> None:
        if needs.unique > limit:
            raise TooLarge(
                f"{needs.listing.ref} needs {needs.unique:,} bytes, but the store may take {limit:,}; "
                "raise `limit`, or use a larger disk."
            )

    def _drop_quarantined(self, need: int, wanted: bool) -> int:
        """Damaged files take room too: those that nobody wants back, or those whose good pieces are still of use.

        Bytes that this gave back to the limit.
        """
        store, before = self._disk.store, self._disk.store.usage().limit
        for path in store.quarantined():
            if store.usage().limit - before >= need:
                break
            if (store.wanted_back(path.name[:64]) is not None) == wanted:
                store.drop_quarantined(path)
        return max(0, store.usage().limit - before)

    def _needs(self, listing: Listing) -> Needs:
        index, blobs = self._disk.store.index, self._disk.store.blobs
        identities = {entry.path: listing.identity(entry) for entry in listing.entries if entry.digest is None}
        remembered = index.identities(identities.values())
        rows = {row["digest"]: row["damaged"] for row in index.query("SELECT digest, damaged FROM blob")}
        begun = {row["key"] for row in index.query("SELECT key FROM reservation")}
        begun |= {digest for digest, damaged in rows.items() if damaged}
        keys: dict[str, str] = {}
        digests: dict[str, Digest] = {}
        wants: dict[str, Entry] = {}
        for entry in listing.entries:
            digest = entry.digest or remembered.get(identities[entry.path])
            damaged = None if digest is None else rows.get(digest.hex)
            # What replaces a damaged blob goes by its digest, whatever the source calls it: see `Store.wanted_back`.
            key = ingest_key(listing.identity(entry), digest if damaged else entry.digest)
            keys[entry.path] = key
            if digest is not None and damaged == 0 and blobs.size(digest) == entry.size:
                digests[entry.path] = digest
            else:
                wants[key] = entry
        return Needs(listing, keys, digests, wants, sum(wants[key].size for key in wants.keys() & begun))


def _over(budget: Budget) -> Wish:
    return Wish(f"to keep {_spoken(budget)}", within=budget)


def _spoken(budget: Budget) -> str:
    return f"the budget of {budget.prefix} ({budget.limit:,} bytes)"
