"""Room on one disk for a fill: the bytes to reserve, the snapshots promised to it, and their eviction when the bytes
are received."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from cached.config import Config
from cached.daemon.space.books import Decision, decide
from cached.daemon.space.disk import Disk
from cached.daemon.space.eviction_policy import Budget, Freed, Victim, Wish, budget_of
from cached.daemon.space.evictor import Evictor
from cached.daemon.space.needs import Needs
from cached.daemon.space.running import Running, half_way
from cached.daemon.space.steps import Steps, Stuck
from cached.errors import AllHeld, CachedError, TooLarge
from cached.model import Listing
from cached.store.index.fills import NOTHING, Promised
from cached.store.usage import Usage

T = TypeVar("T")

TRIES = 4  # Attempts, each of which may find that the store has changed meanwhile.


@dataclass(frozen=True, slots=True)
class Reserved:
    """A fill that may begin. `uid`: the user on whose account it is, if any."""

    fill: int
    needs: Needs
    uid: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The effect that a fill would have: `refusal` is the reason why it cannot begin, and None when it would fit."""

    needs: Needs
    usage: Usage
    victims: tuple[Victim, ...] = ()
    refusal: CachedError | None = None
    promised: Promised = NOTHING
    stops: bool = False  # True if another fill has to give way.

    @property
    def capacity(self) -> int:
        """Bytes that blobs and reservations may take once its snapshot has the space that it takes beside them."""
        return self.usage.limit - self.usage.overhead.more(self.needs.overhead)

    @property
    def why(self) -> str | None:
        return self.refusal.message if self.refusal is not None else None


class Room:
    """Make room on one disk and reserve it for fills. Use from the event loop only."""

    def __init__(self, config: Config, disk: Disk) -> None:
        self._config = config
        self._disk = disk
        self._evictor = Evictor(disk.store, config.min_residency, config.budgets, config.user_share)
        self._steps = Steps(disk, self._evictor, config.budgets)
        self._running = Running()
        self._evicting = asyncio.Lock()

    async def needs(self, listing: Listing) -> Needs:
        return await self._disk.do(Needs.of, listing, self._disk.store)

    async def reserve(self, listing: Listing, uid: int | None = None) -> Reserved:
        """Hold the blobs that exist and reserve room for the missing ones, on a user's account or on nobody's, and
        return the fill. Where room is short, snapshots are promised to it, if that is enough; they are evicted when
        their room is needed: see `secure`. Where there is no room for the space that its snapshot takes beside its
        blobs, the first of them are evicted at once.

        Raise TooLarge when an empty store could not take it, AllHeld when too little may be evicted, and StoreDegraded.
        """
        ref = str(listing.ref)
        for _ in range(TRIES):
            async with self._evicting:
                plan = await self._disk.do(self._plan, listing, uid, self._running.stoppable)
                if plan.refusal is not None:
                    raise plan.refusal
                try:
                    fill = await self._disk.begin(partial(self._begin, plan, uid))
                except LookupError:  # A blob or a snapshot that we counted on was evicted meanwhile: plan again.
                    continue
                assert fill is not None  # Promises cover what it is short of.
                self._running.begin(fill, ref)
                return Reserved(fill, plan.needs, uid)
        raise _all_held(ref, None)

    def _begin(self, plan: Plan, uid: int | None) -> int | None:
        """Call `Index.begin` as planned and return the id of the fill. The space that its snapshot takes beside its
        blobs is set aside too."""
        store, needs = self._disk.store, plan.needs
        ref, holds = str(needs.listing.ref), set(needs.digests.values())
        fill = store.index.begin(ref, dict(needs.sizes), holds, plan.capacity, plan.promised)
        if fill is not None and not plan.promised.overhead:
            try:
                self._set_aside(fill, plan, needs.wish(uid))
            except BaseException:
                store.abandon(fill)
                raise
        return fill

    def _set_aside(self, fill: int, plan: Plan, wish: Wish) -> None:
        """Set space aside for a snapshot that had no room beside its blobs, by evicting the first of the promised
        snapshots at once. Raise LookupError when too few of them may be evicted any more."""
        store, coming = self._disk.store, plan.needs.overhead
        self._evictor.clear(_short(store.usage(), coming), plan.victims, wish, coming=coming)
        if _short(store.usage(), coming) > 0:
            raise LookupError("what would have gone is in use")
        store.promises.set_aside(fill, coming)

    async def plan(self, listing: Listing, uid: int | None = None) -> Plan:
        """Return the plan that `reserve` would carry out, without changing anything."""
        return await self._disk.do(self._plan, listing, uid, self._running.stoppable)

    async def run(self, reserved: Reserved, work: Coroutine[Any, Any, T]) -> T:
        """Run the part of a fill that needs room, and return its result. Raise AllHeld when it had to give way to
        another fill; the bytes that have landed are kept."""

        async def leaving() -> None:
            with contextlib.suppress(CachedError):  # `abandon`, which follows, releases the same.
                await self._disk.do(self._disk.store.promises.give_up, reserved.fill)

        return await self._running.run(reserved.fill, work, leaving)

    async def abandon(self, reserved: Reserved) -> None:
        """Free the room that the fill has not used. It has ended without a snapshot."""
        try:
            await self._running.left(reserved.fill)
            await self._disk.abandon(reserved.fill)
        finally:
            self._running.over(reserved.fill)

    def committed(self, reserved: Reserved) -> None:
        """Record that the fill has become a snapshot."""
        self._running.over(reserved.fill)

    async def secure(self, steps: Mapping[str, int]) -> None:
        """Secure room for so many bytes of each of these downloads (by key) before they are received. The snapshots
        promised for them are evicted now, or others in their place; and a fill that ranks after theirs gives way.

        Raise AllHeld when that is not enough. Nothing is known of downloads that no fill has reserved, and nothing is
        done for them.
        """
        while (stuck := await self._secure(steps)) is not None:
            if stuck.stop is None or stuck.fill in self._running.stopped:
                raise half_way(stuck.source)
            await self._running.stop(stuck.stop, stuck.fill)  # A fill that can no longer be stopped is not named again.

    async def _secure(self, steps: Mapping[str, int]) -> Stuck | None:
        if await self._disk.do(self._steps.done, steps):
            return None
        async with self._evicting:
            self._disk.require_writable()
            running = self._running
            return await self._disk.do(self._steps.take, steps, running.stopped, running.stoppable)

    async def make(self, need: int, wish: Wish, dry_run: bool = False) -> Freed:
        """Evict until `need` bytes are freed, as far as possible, and return the result. With `dry_run`, only plan
        it."""
        async with self._evicting:
            if dry_run:
                return await self._disk.do(self._evictor.plan, need, wish)
            self._disk.require_writable()
            await self._disk.do(self._disk.uses.flush)
            return await self._disk.do(self._evictor.free, need, wish)

    async def keep_below(self) -> None:
        """Evict down to the low watermark when above the high one, so that the next fill need not wait for it. Above
        the limit, which shrinks with the free space of the disk, users with less than their share are not spared."""
        if self._disk.degraded is not None:
            return
        if (need := await self._disk.do(self.excess, 1.0)) > 0:
            await self.make(need, Wish("to get below the limit", spare_young=True))
        if await self._disk.do(self.excess, self._config.high_watermark) > 0:
            need = await self._disk.do(self.excess, self._config.low_watermark)
            await self.make(need, Wish("to get below the low watermark", spare_young=True, spare_within=True))

    def excess(self, share: float) -> int:
        """Return the bytes on the disk above this share of the limit. Bytes that are set aside but have not landed do
        not count. Synchronous."""
        usage = self._disk.store.usage()
        beside = usage.overhead.excess
        # What has landed is looked at a moment after the rows: in between a model may have gone and others landed in
        # its room. What was set aside is of the same moment as what was used, and at least as much.
        landed = min(usage.landed, usage.reserved)
        return max(0, usage.used + landed + beside - int((usage.limit + beside) * share))

    def _plan(self, listing: Listing, uid: int | None, stoppable: Collection[int]) -> Plan:
        """Return the plan of a fill: the snapshots to promise, or the refusal. `reserve` carries out such a plan."""
        needs, usage = Needs.of(listing, self._disk.store), self._disk.store.usage()
        ref, wish = str(listing.ref), needs.wish(uid)
        budget = budget_of(ref, self._config.budgets)
        try:
            self._disk.require_writable()
            self._refuse_too_large(needs, usage, budget, uid)
            decision = self._decide(needs, usage, wish, budget, stoppable)
        except CachedError as error:
            return Plan(needs, usage, refusal=error)
        victims = decision.victims
        refusal = None if decision.possible else _all_held(ref, decision)
        most = usage.limit if budget is None else max(0, budget.limit - self._evictor.spent(budget))
        overhead = needs.overhead if _short(usage, needs.overhead) <= 0 else 0
        room = 0 if decision.greedy else most
        promised = Promised(tuple(victim.digest for victim in victims), room, uid, overhead)
        return Plan(needs, usage, victims, refusal, promised, decision.short > 0)

    def _decide(
        self, needs: Needs, usage: Usage, wish: Wish, budget: Budget | None, stoppable: Collection[int]
    ) -> Decision:
        """Return the decision for a fill. Leases are checked only where something may have to be evicted."""
        lacks = sum(each.lacks for each in self._disk.store.promises.reservations().values())
        new = needs.new + usage.overhead.more(needs.overhead)
        if budget is None and usage.used + usage.reserved + lacks + new <= usage.limit:
            return Decision((), 0, greedy=self._evictor.greedy(wish))
        self._disk.uses.flush()  # So that a snapshot used a moment ago is not evicted.
        under = frozenset[str]() if budget is None else self._evictor.under(budget)
        return decide(self._evictor.books(wish), wish, budget, under, stoppable)

    def _refuse_too_large(self, needs: Needs, usage: Usage, budget: Budget | None, uid: int | None) -> None:
        ref, unique, most = needs.listing.ref, needs.unique, usage.limit + usage.quarantined + usage.overhead.excess
        bound = int(self._config.max_model_size)
        if uid is not None and needs.missing and 0 < bound < unique:
            raise TooLarge(
                f"{ref} has {unique:,} bytes, and `max_model_size` lets users fetch models of up to {bound:,}; "
                "ask an administrator to pull it, or to raise that."
            )
        if unique + max(0, needs.overhead - usage.overhead.spare) > most:
            raise TooLarge(
                f"{ref} needs {unique:,} bytes, but the store may take {most:,}; "
                "raise `limit`, free space on the disk, or use a larger one."
            )
        if budget is not None and unique > budget.limit:
            raise TooLarge(f"{ref} needs {unique:,} bytes, more than {budget}; raise it.")


def _short(usage: Usage, coming: int) -> int:
    """Return the bytes to free before `coming` bytes are taken beside blobs: none where the spare space has room for
    them."""
    more = usage.overhead.more(coming)
    return more - usage.unclaimed if more else 0


def _all_held(ref: str, decision: Decision | None) -> AllHeld:
    if decision is not None and decision.over is not None:
        return AllHeld(f"There is no room for {ref}: leases, pins and running fills hold {decision.over}.")
    if decision is not None and decision.greedy:
        return AllHeld(
            f"There is no room for {ref}: with it you would have more than `user_share` lets a user take from others, "
            f"and {decision.short:,} bytes too little of what you brought may go; release some of that, or ask an "
            "administrator to pull it."
        )
    short = f"{decision.short:,} bytes too little may go: " if decision is not None else ""
    return AllHeld(
        f"There is no room for {ref}: {short}leases, pins and running fills hold the rest of the store; "
        "release or unpin something, or raise `limit`."
    )
