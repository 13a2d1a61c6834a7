"""Making room: look, choose, act."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from cached.config import Share
from cached.daemon.space import greed
from cached.daemon.space.books import Books
from cached.daemon.space.eviction_policy import Budget, Candidate, Freed, Rows, Victim, Wish, budget_of, choose
from cached.model import Digest
from cached.store import overhead
from cached.store.blobs.quarantine import Aside
from cached.store.store import Store
from cached.store.usage import Usage

log = logging.getLogger("cached.evict")


class Evictor:
    """Synchronous; the daemon calls it in a thread, one call at a time. `residency` in seconds."""

    def __init__(self, store: Store, residency: float, budgets: Mapping[str, int], share: Share | None = None) -> None:
        """`share`: what a user's models may take before they go for everybody's; None: all."""
        self._store = store
        self._residency = residency
        self._budgets = budgets
        self._share = Share(1) if share is None else share

    def books(self, wish: Wish, look: bool = True) -> Books:
        """What there is to decide on, at this moment. Unless it is to `look`, leases are left out."""
        usage, promises = self._store.usage(), self._store.promises
        return Books(
            usage.limit,
            usage.used,
            self._rows(wish, look),
            promises.reservations(),
            tuple(promises.fills()),
            promises.promised(),
            self._share_of(usage),
            self._loose(wish),
            usage.overhead,
        )

    def _share_of(self, usage: Usage) -> int | None:
        """Bytes that a user may have; None: any number. It does not shrink by what others make beside blobs."""
        return self._share.of(usage.limit + usage.overhead.excess)

    def greedy(self, wish: Wish) -> bool:
        """Whether the user of the wish has more than its share with it. For every fill: so the books, which list all
        that is here, are opened only where that is near."""
        share = self._share_of(self._store.usage())
        if wish.uid is None or share is None or greed.most(self._store, wish) <= share:
            return False
        return wish.uid in self.books(wish, look=False).accounts(wish).above

    def plan(self, need: int, wish: Wish) -> Freed:
        """What `free` would do, as far as can be said beforehand. Nothing is changed."""
        first, last = self._loose(wish)
        victims = [victim.explained(wish.purpose) for victim in choose(self._choosable(wish), need - first)]
        planned = first + sum(victim.frees for victim in victims)
        planned += min(last, max(0, need - planned))
        return Freed(tuple(victims), planned, max(0, need - planned))

    def free(self, need: int, wish: Wish) -> Freed:
        """Free at least `need` bytes if that can be: see `clear`."""
        gone: list[Victim] = []
        freed, refused = 0, set[Digest]()
        while (missing := need - freed) > 0:
            plan = choose(self._choosable(wish, refused), missing - self._loose(wish)[0])
            done = self.clear(missing, [victim.explained(wish.purpose) for victim in plan], wish)
            went = {victim.digest for victim in done.victims}
            gone += done.victims
            freed += done.freed
            left = {victim.digest for victim in plan} - went - refused  # Leased or pinned since we looked.
            refused |= left
            if not done.victims and not left:
                break
        return Freed(tuple(gone), freed, max(0, need - freed))

    def clear(self, need: int, victims: Iterable[Victim], wish: Wish, loose: bool = True, coming: int = 0) -> Freed:
        """Free at least `need` bytes, of these victims in their order.

        What nobody has any use of goes first, if it is `loose` that helps: orphans, parked downloads, what lies in
        quarantine and has been replaced. Then the victims; then the rest of the quarantine, whose good pieces would
        have to be fetched again. What snapshots take beside blobs counts as far as it is too much, or would be with so
        many bytes that are `coming`.
        """
        taken, beside, gone = self._taken(), self._store.overhead(), list[Victim]()
        excess = beside.excess + beside.more(coming)

        def freed() -> int:
            return taken - self._taken() + min(excess, sum(victim.overhead for victim in gone))

        if loose:
            self._drop_unused(need, wish)
            self._drop_quarantined(need - freed(), wish, wanted=False)
        for victim in victims:
            if freed() >= need:
                break
            if self._store.evict(victim.digest, victim.why):
                gone.append(victim)
        for wanted in (False, True) if loose else ():  # Of damaged files, the last snapshot may just have gone.
            self._drop_quarantined(need - freed(), wish, wanted)
        done = freed()
        if gone:
            log.info("evict.done", extra={"snapshots": len(gone), "freed": done, "wished": need})
        return Freed(tuple(gone), done, max(0, need - done))

    def spent(self, budget: Budget) -> int:
        """Bytes under the budget: of its models, and what is set aside for fills of them."""
        under = self.under(budget)
        rows, promises = self._rows(Wish(""), look=False), self._store.promises
        reservations = promises.reservations()
        blobs = {blob for candidate in rows.candidates if candidate.source in under for blob in candidate.blobs}
        fills = [fill for fill in promises.fills() if fill.source in under]
        keys = {key for fill in fills for key in fill.wants if key in reservations}
        blobs = blobs.union(*(fill.holds for fill in fills))
        return sum(rows.sizes.get(blob, 0) for blob in blobs) + sum(reservations[key].bytes for key in keys)

    def under(self, budget: Budget) -> frozenset[str]:
        """The sources here that count towards the budget, of snapshots and fills."""
        rows = self._store.index.query("SELECT source FROM snapshot UNION SELECT source FROM fill")
        return frozenset(r["source"] for r in rows if budget_of(r["source"], self._budgets) == budget)

    def _drop_unused(self, need: int, wish: Wish) -> None:
        before = self._store.index.committed()
        self._store.drop_orphans()
        for key in self._store.parked():
            if before - self._store.index.committed() >= need:
                break
            if key not in wish.wants:
                self._store.drop_parked(key)

    def _drop_quarantined(self, need: int, wish: Wish, wanted: bool) -> None:
        for aside in self._asides(wish, wanted):
            if need <= 0:
                break
            self._store.quarantine.drop(aside)
            need -= aside.bytes

    def _asides(self, wish: Wish, wanted: bool) -> list[Aside]:
        """What lies in quarantine and would give back room, and is (`wanted`) or is not of use for mending; what the
        wish itself is about comes last."""
        found = [aside for aside in self._store.quarantine.list() if aside.alone]
        found = [aside for aside in found if (self._store.wanted_back(aside.blob) is not None) == wanted]
        return sorted(found, key=lambda aside: aside.blob in wish.wants)

    def _loose(self, wish: Wish) -> tuple[int, int]:
        """Bytes that would go before any snapshot, and after them all."""
        rows = self._store.index.query("SELECT key, bytes FROM reservation WHERE key NOT IN (SELECT key FROM want)")
        parked = sum(row["bytes"] for row in rows if row["key"] not in wish.wants)
        unwanted, wanted = (sum(aside.bytes for aside in self._asides(wish, kind)) for kind in (False, True))
        return self._store.index.orphaned() + parked + unwanted, wanted

    def _taken(self) -> int:
        """Bytes that count against the limit, but what is beside blobs."""
        return self._store.index.committed() + sum(aside.bytes for aside in self._store.quarantine.list())

    def _choosable(self, wish: Wish, refused: Collection[Digest] = ()) -> Rows:
        """For whoever needs room for no fill: what a user has above its share goes first for it as well."""
        books = self.books(wish)
        kept = (replace(each, kept=each.kept or each.digest in refused) for each in books.rows.candidates)
        rows = replace(books.rows, candidates=tuple(kept), held=books.rows.held | wish.blobs)
        rows = replace(rows, excess=books.overhead.excess, charged=books.charged())
        return replace(rows, accounts=books.accounts(), spare_young=wish.spare_young, spare_within=wish.spare_within)

    def _rows(self, wish: Wish, look: bool) -> Rows:
        index, now = self._store.index, time.time()
        blobs: dict[str, set[str]] = {}
        for row in index.query("SELECT snapshot, blob FROM snapshot_blob"):
            blobs.setdefault(row["snapshot"], set()).add(row["blob"])
        pinned = {
            row["snapshot"] for row in index.query("SELECT snapshot FROM pin WHERE until IS NULL OR until > ?", (now,))
        }
        found: list[Candidate] = []
        shared: dict[str, list[tuple[float, int]]] = {}
        for row in index.query("SELECT snapshot, at, uid FROM sharing"):
            shared.setdefault(row["snapshot"], []).append((row["at"], row["uid"]))
        snapshots = index.query("SELECT digest, source, used_at, created_at, brought_by, files FROM snapshot")
        leased = self._store.leases.protected(Digest(row["digest"]) for row in snapshots) if look else set[Digest]()
        for row in snapshots:
            digest, members = Digest(row["digest"]), frozenset(blobs.get(row["digest"], ()))
            # `wants` among its blobs: it is damaged, and what the room is for would mend it.
            kept = digest.hex in pinned or not members.isdisjoint(wish.wants)
            young, recent = (0 <= now - row[name] < self._residency for name in ("created_at", "used_at"))
            kept = kept or digest in leased
            found.append(
                Candidate(
                    digest,
                    row["source"],
                    row["used_at"],
                    members,
                    kept,
                    young,
                    row["brought_by"],
                    recent,
                    tuple(shared.get(row["digest"], ())),
                    overhead.of(row["files"]),
                )
            )
        blobs_held = frozenset(row["blob"] for row in index.query("SELECT blob FROM hold"))
        return Rows(tuple(found), self._sizes(), blobs_held)

    def _sizes(self) -> dict[str, int]:
        """Of a damaged blob, what lies in quarantine as long as a snapshot has it, and may go with that."""
        rows = self._store.index.query("SELECT digest, size FROM blob WHERE NOT damaged")
        sizes = {row["digest"]: row["size"] for row in rows}
        for aside in self._store.quarantine.list():
            if not aside.alone:
                sizes[aside.blob] = sizes.get(aside.blob, 0) + aside.bytes
        return sizes
