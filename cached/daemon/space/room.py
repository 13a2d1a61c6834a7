"""Room on one disk for what is to be fetched: what is there already, what must be reserved, what has to go for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from cached.config import Config
from cached.daemon.space.choice import Budget, Freed, Victim, Wish, budget_of
from cached.daemon.space.disk import Disk
from cached.daemon.space.evict import Evictor
from cached.errors import AllHeld, CachedError, TooLarge
from cached.model import Digest, Entry, Listing
from cached.store.blobs import ingest_key
from cached.store.store import Usage

TRIES = 4  # Looks at the store that may each find that it has changed meanwhile.


@dataclass(frozen=True, slots=True)
class Needs:
    """A listing as a disk sees it: digests by path of what is there; what is missing, by the key to fetch it by.

    Of what is missing, `begun` has been reserved already, by another fill or for a download that broke off, and
    `damaged` is to replace a damaged blob.
    """

    listing: Listing
    keys: Mapping[str, str]  # By path, of every file.
    digests: Mapping[str, Digest]
    wants: Mapping[str, Entry]
    begun: frozenset[str]
    damaged: frozenset[str]

    missing: int = field(init=False)  # Bytes to fetch, as far as nothing of them has landed.
    new: int = field(init=False)  # Bytes to reserve.
    unique: int = field(init=False)  # Bytes of the whole listing, each content once.
    ties: int = field(init=False)  # Bytes that speak for this disk.

    def __post_init__(self) -> None:
        """Where it is made, which is a thread: models have thousands of files."""
        wants, listing = self.wants, self.listing
        missing = sum(entry.size for entry in wants.values())
        unique = sum({self.keys[entry.path]: entry.size for entry in listing.entries}.values())
        object.__setattr__(self, "missing", missing)
        object.__setattr__(self, "new", sum(entry.size for key, entry in wants.items() if key not in self.begun))
        object.__setattr__(self, "unique", unique)
        object.__setattr__(self, "ties", unique - missing + sum(wants[key].size for key in self.begun | self.damaged))

    def wish(self, purpose: str, within: Budget | None = None) -> Wish:
        """To make room for this."""
        blobs = frozenset(digest.hex for digest in self.digests.values())
        return Wish(purpose, False, within, frozenset(self.wants), blobs)


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

    async def fits(self, needs: Needs) -> bool:
        """Whether nothing has to go for it."""
        usage = await self._disk.do(self._disk.store.usage)
        return usage.used + usage.reserved + needs.new <= usage.limit

    async def reserve(self, listing: Listing) -> Reserved:
        """Hold what is here and reserve for what is not, evicting when short, and only when that is enough.

        TooLarge when an empty store could not take it, AllHeld when too little may go, StoreDegraded.
        """
        self._disk.require_writable()
        ref, store = str(listing.ref), self._disk.store
        for _ in range(TRIES):
            needs = await self.needs(listing)
            usage = await self._disk.do(store.usage)
            self._refuse_too_large(needs, usage)
            if budget := budget_of(ref, self._config.budgets):
                await self._keep_budget(budget, needs)
            missing, holds = await self._disk.do(_claims, needs)
            try:
                fill = await self._disk.begin(ref, missing, holds, usage.limit)
            except LookupError:  # A blob that we counted on was evicted meanwhile: look again.
                continue
            if fill is not None:
                return Reserved(fill, needs)
            if not await self._make_enough(_short(usage, needs), needs.wish(f"to make room for {ref}")):
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
        budget = budget_of(ref, self._config.budgets)
        try:
            self._disk.require_writable()
            self._refuse_too_large(needs, usage)
            if budget:
                _refuse_over_budget(needs, budget)
        except CachedError as error:
            return Plan(needs, (), error.message)
        found = await self._disk.do(self._evictor.plan, _short(usage, needs), needs.wish(f"to make room for {ref}"))
        victims, missing = list(found.victims), found.short
        if budget:
            within = await self._disk.do(self._evictor.plan, await self._over(budget, needs), _keeping(budget, needs))
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
            return await self._make(need, wish)

    async def _make(self, need: int, wish: Wish) -> Freed:
        self._disk.require_writable()
        await self._disk.do(self._disk.uses.flush)
        return await self._disk.do(self._evictor.free, need, wish)

    async def _make_enough(self, need: int, wish: Wish) -> bool:
        """False when not so much may go; then nothing does."""
        async with self._evicting:
            if (await self._disk.do(self._evictor.plan, need, wish)).short:
                return False
            return need <= 0 or (await self._make(need, wish)).short == 0

    async def keep_below(self) -> None:
        """Above the high watermark: evict down to the low one, so that the next fill need not wait for it."""
        if self._disk.degraded is None and await self._disk.do(self.excess, self._config.high_watermark) > 0:
            need = await self._disk.do(self.excess, self._config.low_watermark)
            await self.make(need, Wish("to get below the low watermark", spare_young=True))

    def excess(self, share: float) -> int:
        """Bytes above that share of the limit. Synchronous."""
        usage = self._disk.store.usage()
        return max(0, usage.used + usage.reserved - int(usage.limit * share))

    async def _keep_budget(self, budget: Budget, needs: Needs) -> None:
        """Have others of the same budget go as far as the listing needs it. TooLarge, AllHeld."""
        _refuse_over_budget(needs, budget)
        if not await self._make_enough(await self._over(budget, needs), _keeping(budget, needs)):
            raise AllHeld(
                f"There is no room for {needs.listing.ref}: leases, pins and running fills hold {_spoken(budget)}."
            )

    async def _over(self, budget: Budget, needs: Needs) -> int:
        """Bytes above the budget, were the listing here."""
        wants = {key: entry.size for key, entry in needs.wants.items()}
        return await self._disk.do(self._evictor.spent, budget, _keeping(budget, needs), wants) - budget.limit

    def _refuse_too_large(self, needs: Needs, usage: Usage) -> None:
        most = usage.limit + usage.quarantined
        if needs.unique > most:
            raise TooLarge(
                f"{needs.listing.ref} needs {needs.unique:,} bytes, but the store may take {most:,}; "
                "raise `limit`, free space on the disk, or use a larger one."
            )

    def _needs(self, listing: Listing) -> Needs:
        index, blobs = self._disk.store.index, self._disk.store.blobs
        files = [(entry, listing.identity(entry)) for entry in listing.entries]
        expected = {entry.path: digest for (entry, _), digest in zip(files, index.expected(files), strict=True)}
        rows = index.blobs(digest.hex for digest in expected.values() if digest is not None)
        keys: dict[str, str] = {}
        digests: dict[str, Digest] = {}
        wants: dict[str, Entry] = {}
        for entry, identity in files:
            digest = expected[entry.path]
            damaged = None if digest is None else rows.get(digest.hex)
            # What replaces a damaged blob goes by its digest, whatever the source calls it: see `Store.wanted_back`.
            key = ingest_key(identity, digest if damaged else entry.digest)
            keys[entry.path] = key
            if digest is not None and damaged is False and blobs.size(digest) == entry.size:
                digests[entry.path] = digest
            else:
                wants[key] = entry
        damaged_keys = frozenset(key for key in wants if rows.get(key))
        return Needs(listing, keys, digests, wants, frozenset(index.reserved(wants)), damaged_keys)


def _claims(needs: Needs) -> tuple[dict[str, int], set[Digest]]:
    """Bytes to fetch by key, and blobs to hold."""
    return {key: entry.size for key, entry in needs.wants.items()}, set(needs.digests.values())


def _short(usage: Usage, needs: Needs) -> int:
    return usage.used + usage.reserved + needs.new - usage.limit


def _refuse_over_budget(needs: Needs, budget: Budget) -> None:
    if needs.unique > budget.limit:
        raise TooLarge(f"{needs.listing.ref} needs {needs.unique:,} bytes, more than {_spoken(budget)}; raise it.")


def _keeping(budget: Budget, needs: Needs) -> Wish:
    return needs.wish(f"to keep {_spoken(budget)}", budget)


def _spoken(budget: Budget) -> str:
    return f"the budget of {budget.prefix} ({budget.limit:,} bytes)"
