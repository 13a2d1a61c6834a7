"""Making room: look, choose, act."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from cached.daemon.space.choice import Budget, Candidate, Freed, Rows, Victim, Wish, budget_of, choose
from cached.model import Digest
from cached.store.quarantine import Aside
from cached.store.store import Store

log = logging.getLogger("cached.evict")


class Evictor:
    """Synchronous; the daemon calls it in a thread, one call at a time. `residency` in seconds."""

    def __init__(self, store: Store, residency: float, budgets: Mapping[str, int]) -> None:
        self._store = store
        self._residency = residency
        self._budgets = budgets

    def plan(self, need: int, wish: Wish) -> Freed:
        """What `free` would do, as far as can be said beforehand. Nothing is changed."""
        first, last = (0, 0) if wish.within else self._loose(wish)
        victims = [_with(wish, victim) for victim in choose(self._rows(wish), need - first)]
        planned = first + sum(victim.frees for victim in victims)
        planned += min(last, max(0, need - planned))
        return Freed(tuple(victims), planned, max(0, need - planned))

    def free(self, need: int, wish: Wish) -> Freed:
        """Free at least `need` bytes if that can be.

        What nobody has any use of goes first: orphans, parked downloads, what lies in quarantine and has been replaced.
        Then snapshots; then the rest of the quarantine, whose good pieces would have to be fetched again.
        """
        before = self._taken(wish)
        if wish.within is None:
            self._drop_unused(need, wish)
            self._drop_quarantined(need - (before - self._taken(wish)), wish, wanted=False)
        gone = self._evict(need - (before - self._taken(wish)), wish)
        if wish.within is None:
            self._drop_quarantined(need - (before - self._taken(wish)), wish, wanted=True)
        freed = before - self._taken(wish)
        if gone:
            log.info("evict.done", extra={"snapshots": len(gone), "freed": freed, "wished": need})
        return Freed(tuple(gone), freed, max(0, need - freed))

    def spent(self, budget: Budget, wish: Wish, wants: Mapping[str, int]) -> int:
        """Bytes under the budget: of its models, of fills for them, and of one that would have `wish.blobs` and fetch
        `wants` (bytes by key)."""
        blobs = set(wish.blobs)
        for candidate in self._rows(wish, frozenset(), budget).candidates:
            blobs |= candidate.blobs
        keys = dict(wants)
        for row in self._store.index.query("SELECT id, source FROM fill"):
            if self._under(budget, row["source"]):
                blobs |= self._held_blobs(row["id"])
                keys |= self._reserved(row["id"])
        sizes = self._sizes()
        return sum(sizes.get(blob, 0) for blob in blobs) + sum(keys.values())

    def _evict(self, need: int, wish: Wish) -> list[Victim]:
        gone: list[Victim] = []
        refused: set[Digest] = set()
        before = self._taken(wish)
        while (missing := need - (before - self._taken(wish))) > 0:
            plan = choose(self._rows(wish, frozenset(refused)), missing)
            if not plan:
                break
            for victim in (_with(wish, planned) for planned in plan):
                if self._store.evict(victim.digest, victim.why):
                    gone.append(victim)
                else:
                    refused.add(victim.digest)  # Leased or pinned since we looked.
        return gone

    def _drop_unused(self, need: int, wish: Wish) -> None:
        before = self._store.index.committed()
        self._store.drop_orphans()
        for key in self._store.parked():
            if before - self._store.index.committed() >= need:
                break
            if key not in wish.keys:
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
        return sorted(found, key=lambda aside: aside.blob in wish.keys)

    def _loose(self, wish: Wish) -> tuple[int, int]:
        """Bytes that would go before any snapshot, and after them all."""
        parked = sum(size for key, size in self._reserved(None).items() if key not in wish.keys)
        unwanted, wanted = (sum(aside.bytes for aside in self._asides(wish, kind)) for kind in (False, True))
        return self._store.index.orphaned() + parked + unwanted, wanted

    def _taken(self, wish: Wish) -> int:
        """Bytes that count against the limit, or against the budget."""
        if wish.within is not None:
            return self.spent(wish.within, wish, {})
        return self._store.index.committed() + sum(aside.bytes for aside in self._store.quarantine.list())

    def _under(self, budget: Budget, source: str) -> bool:
        return budget_of(source, self._budgets) == budget

    def _rows(self, wish: Wish, refused: frozenset[Digest] = frozenset(), within: Budget | None = None) -> Rows:
        """Within a budget only its own models count, also for who shares what."""
        index, now, budget = self._store.index, time.time(), within or wish.within
        blobs: dict[str, set[str]] = {}
        for row in index.query("SELECT snapshot, blob FROM snapshot_blob"):
            blobs.setdefault(row["snapshot"], set()).add(row["blob"])
        pinned = {
            row["snapshot"] for row in index.query("SELECT snapshot FROM pin WHERE until IS NULL OR until > ?", (now,))
        }
        found: list[Candidate] = []
        snapshots = index.query("SELECT digest, source, used_at, created_at FROM snapshot")
        leased = self._store.leases.protected(Digest(row["digest"]) for row in snapshots)
        for row in snapshots:
            if budget is not None and not self._under(budget, row["source"]):
                continue
            digest, members = Digest(row["digest"]), frozenset(blobs.get(row["digest"], ()))
            young = 0 <= now - row["created_at"] < self._residency
            # `keys` among its blobs: it is damaged, and what the room is for would mend it.
            kept = (
                digest.hex in pinned or digest in refused or (wish.spare_young and young) or bool(members & wish.keys)
            )
            kept = kept or digest in leased
            found.append(Candidate(digest, row["source"], row["used_at"], members, kept, young))
        return Rows(tuple(found), self._sizes(), self._held_blobs(None) | wish.blobs)

    def _sizes(self) -> dict[str, int]:
        rows = self._store.index.query("SELECT digest, size FROM blob WHERE NOT damaged")
        return {row["digest"]: row["size"] for row in rows}

    def _held_blobs(self, fill: int | None) -> frozenset[str]:
        """What a fill (None: any) counts on."""
        rows = self._store.index.query("SELECT blob FROM hold WHERE ? IS NULL OR fill = ?", (fill, fill))
        return frozenset(row["blob"] for row in rows)

    def _reserved(self, fill: int | None) -> dict[str, int]:
        """Bytes by key of what a fill waits for; None: of parked downloads, for which no fill waits."""
        rows = self._store.index.query(
            "SELECT r.key, r.bytes FROM reservation r LEFT JOIN want w ON w.key = r.key WHERE w.fill IS ?", (fill,)
        )
        return {row["key"]: row["bytes"] for row in rows}


def _with(wish: Wish, victim: Victim) -> Victim:
    return Victim(victim.digest, victim.source, victim.frees, f"{victim.why}, {wish.purpose}")
