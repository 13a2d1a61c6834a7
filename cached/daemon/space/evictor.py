"""Make room on a disk: read its state, choose, and evict."""

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
    """Evict snapshots of one disk. Synchronous; the daemon calls it in a thread, one call at a time. `residency` is in
    seconds."""

    def __init__(self, store: Store, residency: float, budgets: Mapping[str, int], share: Share | None = None) -> None:
        """Take the store and its settings. `share`: the part of the limit that a user's models may take before they are
        evicted for others; None means all of it."""
        self._store = store
        self._residency = residency
        self._budgets = budgets
        self._share = Share(1) if share is None else share

    def books(self, wish: Wish, look: bool = True) -> Books:
        """Return the state of the disk at this moment, on which to decide. Leases are left out unless `look` is set."""
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
        """Return the bytes that a user may have; None means any number. They do not shrink by the space that others
        take beside blobs."""
        return self._share.of(usage.limit + usage.overhead.excess)

    def greedy(self, wish: Wish) -> bool:
        """Return True if the user of the wish has more than its share, counting the wish. This is called for every
        fill, so the books, which list everything on the disk, are opened only where the share is nearly reached."""
        share = self._share_of(self._store.usage())
        if wish.uid is None or share is None or greed.most(self._store, wish) <= share:
            return False
        return wish.uid in self.books(wish, look=False).accounts(wish).above

    def plan(self, need: int, wish: Wish) -> Freed:
        """Return the result that `free` would have, as far as it can be predicted. Nothing is changed."""
        first, last = self._loose(wish)
        victims = [victim.explained(wish.purpose) for victim in choose(self._choosable(wish), need - first)]
        planned = first + sum(victim.frees for victim in victims)
        planned += min(last, max(0, need - planned))
        return Freed(tuple(victims), planned, max(0, need - planned))

    def free(self, need: int, wish: Wish) -> Freed:
        """Free at least `need` bytes if possible, and return the result: see `clear`."""
        gone: list[Victim] = []
        freed, refused = 0, set[Digest]()
        while (missing := need - freed) > 0:
            plan = choose(self._choosable(wish, refused), missing - self._loose(wish)[0])
            done = self.clear(missing, [victim.explained(wish.purpose) for victim in plan], wish)
            went = {victim.digest for victim in done.victims}
            gone += done.victims
            freed += done.freed
            left = {victim.digest for victim in plan} - went - refused  # Leased or pinned since the books were read.
            refused |= left
            if not done.victims and not left:
                break
        return Freed(tuple(gone), freed, max(0, need - freed))

    def clear(self, need: int, victims: Iterable[Victim], wish: Wish, loose: bool = True, coming: int = 0) -> Freed:
        """Free at least `need` bytes by evicting these victims in their order, and return the result.

        With `loose`, data that is of no use goes first: orphans, parked downloads, and quarantined files that have been
        replaced. Then the victims; then, with `loose`, the rest of the quarantine, whose good pieces would have to be
        fetched again. The space that snapshots take beside blobs counts as far as it is in excess, or would be with
        `coming` more bytes.
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
        for wanted in (False, True) if loose else ():  # The last snapshot with a damaged file may just be gone.
            self._drop_quarantined(need - freed(), wish, wanted)
        done = freed()
        if gone:
            log.info("evict.done", extra={"snapshots": len(gone), "freed": done, "wished": need})
        return Freed(tuple(gone), done, max(0, need - done))

    def spent(self, budget: Budget) -> int:
        """Return the bytes under the budget: those of its models, and those set aside for fills of them."""
        under = self.under(budget)
        rows, promises = self._rows(Wish(""), look=False), self._store.promises
        reservations = promises.reservations()
        blobs = {blob for candidate in rows.candidates if candidate.source in under for blob in candidate.blobs}
        fills = [fill for fill in promises.fills() if fill.source in under]
        keys = {key for fill in fills for key in fill.wants if key in reservations}
        blobs = blobs.union(*(fill.holds for fill in fills))
        return sum(rows.sizes.get(blob, 0) for blob in blobs) + sum(reservations[key].bytes for key in keys)

    def under(self, budget: Budget) -> frozenset[str]:
        """Return the sources on this disk, of snapshots and fills, that count towards the budget."""
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
        """Return the quarantined files whose deletion would free space, either those needed for a repair (`wanted`) or
        the others; files that the wish itself is about come last."""
        found = [aside for aside in self._store.quarantine.list() if aside.alone]
        found = [aside for aside in found if (self._store.wanted_back(aside.blob) is not None) == wanted]
        return sorted(found, key=lambda aside: aside.blob in wish.wants)

    def _loose(self, wish: Wish) -> tuple[int, int]:
        """Return the bytes that would be freed before any snapshot, and those that would be freed after all of them."""
        rows = self._store.index.query("SELECT key, bytes FROM reservation WHERE key NOT IN (SELECT key FROM want)")
        parked = sum(row["bytes"] for row in rows if row["key"] not in wish.wants)
        unwanted, wanted = (sum(aside.bytes for aside in self._asides(wish, kind)) for kind in (False, True))
        return self._store.index.orphaned() + parked + unwanted, wanted

    def _taken(self) -> int:
        """Return the bytes that count against the limit, except those beside blobs."""
        return self._store.index.committed() + sum(aside.bytes for aside in self._store.quarantine.list())

    def _choosable(self, wish: Wish, refused: Collection[Digest] = ()) -> Rows:
        """Return the rows to choose from when room is made for no fill: here too, snapshots of users above their share
        go first."""
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
            # `wants` among its blobs: it is damaged, and the fill that needs the room would repair it.
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
        """Return the bytes of each blob. For a damaged blob, these are the bytes in quarantine for as long as a
        snapshot has it; they may be freed with the snapshot."""
        rows = self._store.index.query("SELECT digest, size FROM blob WHERE NOT damaged")
        sizes = {row["digest"]: row["size"] for row in rows}
        for aside in self._store.quarantine.list():
            if not aside.alone:
                sizes[aside.blob] = sizes.get(aside.blob, 0) + aside.bytes
        return sizes
