"""Making room: least recently used first, never what is leased, pinned or being filled. Choose purely, then act."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from cached.model import Digest
from cached.store.leases import held
from cached.store.store import Store

log = logging.getLogger("cached.evict")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A snapshot as eviction sees it. `blobs` are its digests; what it frees depends on who shares them."""

    digest: Digest
    source: str
    used_at: float
    blobs: frozenset[str]
    kept: bool = False  # Leased or pinned.
    young: bool = False  # Within its minimum residency.


@dataclass(frozen=True, slots=True)
class Rows:
    """What `choose` looks at: snapshots, bytes by blob, and the blobs that fills hold."""

    candidates: tuple[Candidate, ...]
    sizes: Mapping[str, int]
    held: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Victim:
    digest: Digest
    source: str
    frees: int
    why: str


@dataclass(frozen=True, slots=True)
class Freed:
    """What went (or would go), and how many bytes short of the wish that left it."""

    victims: tuple[Victim, ...]
    freed: int
    short: int


@dataclass(frozen=True, slots=True)
class Wish:
    """Why room is made. `purpose` ends the sentence that is recorded for each victim.

    `spare_young`: rather too little room than something fetched a moment ago. `within`: of these URI prefixes' models
    only, because their budget is at stake.
    """

    purpose: str
    spare_young: bool = False
    within: Budget | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes that the models below a URI prefix may take."""

    prefix: str
    limit: int

    def covers(self, source: str) -> bool:
        rest = source.removeprefix(self.prefix)
        return rest != source and (self.prefix.endswith("/") or rest == "" or rest[0] in "/@")


def budget_of(source: str, budgets: Mapping[str, int]) -> Budget | None:
    """The one with the longest prefix."""
    found = [Budget(prefix, limit) for prefix, limit in budgets.items() if Budget(prefix, limit).covers(source)]
    return max(found, key=lambda budget: len(budget.prefix), default=None)


def choose(rows: Rows, need: int) -> list[Victim]:
    """The least recently used snapshots whose going frees `need` bytes; all that may go when that is not enough.

    Those within their minimum residency come last. A blob is freed with the last of its snapshots, and never while a
    fill holds it.
    """
    links = Counter(blob for candidate in rows.candidates for blob in candidate.blobs)
    victims: list[Victim] = []
    for candidate in sorted(rows.candidates, key=lambda c: (c.young, c.used_at, c.digest)):
        if need <= 0:
            break
        if candidate.kept:
            continue
        links.subtract(candidate.blobs)
        frees = sum(rows.sizes.get(b, 0) for b in candidate.blobs if links[b] == 0 and b not in rows.held)
        need -= frees
        victims.append(Victim(candidate.digest, candidate.source, frees, _why(candidate)))
    return victims


def _why(candidate: Candidate) -> str:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(candidate.used_at))
    order = "least recently used of those fetched a moment ago" if candidate.young else "least recently used"
    return f"{order} (last at {stamp})"


class Evictor:
    """Synchronous; the daemon calls it in a thread, one call at a time. `residency` in seconds."""

    def __init__(self, store: Store, residency: float, budgets: Mapping[str, int]) -> None:
        self._store = store
        self._residency = residency
        self._budgets = budgets

    def plan(self, need: int, wish: Wish) -> Freed:
        """What `free` would do, as far as can be said beforehand."""
        victims = choose(self._rows(wish, frozenset()), need)
        planned = sum(victim.frees for victim in victims)
        return Freed(tuple(_with(wish, victim) for victim in victims), planned, max(0, need - planned))

    def free(self, need: int, wish: Wish) -> Freed:
        """Free at least `need` bytes if that can be: parked downloads, orphans, then snapshots."""
        before = self._taken(wish)
        if wish.within is None:
            self._drop_unused(need)
        gone: list[Victim] = []
        refused: set[Digest] = set()
        while (missing := need - (before - self._taken(wish))) > 0:
            plan = choose(self._rows(wish, frozenset(refused)), missing)
            if not plan:
                break
            for victim in (_with(wish, planned) for planned in plan):
                if self._store.evict(victim.digest, victim.why):
                    gone.append(victim)
                else:
                    refused.add(victim.digest)  # Leased or pinned since we looked.
        freed = before - self._taken(wish)
        if gone:
            log.info("evict.done", extra={"snapshots": len(gone), "freed": freed, "wished": need})
        return Freed(tuple(gone), freed, max(0, need - freed))

    def _drop_unused(self, need: int) -> None:
        before = self._store.index.committed()
        self._store.drop_orphans()
        for key in self._store.parked():
            if before - self._store.index.committed() >= need:
                break
            self._store.drop_parked(key)

    def spent(self, budget: Budget) -> int:
        """Bytes of the blobs that models under the budget have, and of what fills for them have reserved."""
        rows = self._rows(Wish("", within=budget), frozenset())
        blobs = frozenset().union(*(candidate.blobs for candidate in rows.candidates))
        fills = self._store.index.query(
            "SELECT f.source, w.key, r.bytes FROM fill f JOIN want w ON w.fill = f.id "
            "JOIN reservation r ON r.key = w.key"
        )
        reserved = {row["key"]: row["bytes"] for row in fills if self._under(budget, row["source"])}
        return sum(rows.sizes.get(blob, 0) for blob in blobs) + int(sum(reserved.values()))

    def _taken(self, wish: Wish) -> int:
        return self._store.index.committed() if wish.within is None else self.spent(wish.within)

    def _under(self, budget: Budget, source: str) -> bool:
        return budget_of(source, self._budgets) == budget

    def _rows(self, wish: Wish, refused: frozenset[Digest]) -> Rows:
        """Within a budget only its own models count, also for who shares what."""
        index, now = self._store.index, time.time()
        blobs: dict[str, set[str]] = {}
        for row in index.query("SELECT snapshot, blob FROM snapshot_blob"):
            blobs.setdefault(row["snapshot"], set()).add(row["blob"])
        pinned = {
            row["snapshot"] for row in index.query("SELECT snapshot FROM pin WHERE until IS NULL OR until > ?", (now,))
        }
        found: list[Candidate] = []
        for row in index.query("SELECT digest, source, used_at, created_at FROM snapshot WHERE state <> 'evicting'"):
            if wish.within is not None and not self._under(wish.within, row["source"]):
                continue
            digest = Digest(row["digest"])
            young = 0 <= now - row["created_at"] < self._residency
            kept = digest.hex in pinned or digest in refused or (wish.spare_young and young)
            kept = kept or held(self._store.snapshots.lock(digest))
            members = frozenset(blobs.get(digest.hex, ()))
            found.append(Candidate(digest, row["source"], row["used_at"], members, kept, young))
        return Rows(tuple(found), self._sizes(), self._held_blobs())

    def _sizes(self) -> dict[str, int]:
        rows = self._store.index.query("SELECT digest, size FROM blob WHERE NOT damaged")
        return {row["digest"]: row["size"] for row in rows}

    def _held_blobs(self) -> frozenset[str]:
        return frozenset(row["blob"] for row in self._store.index.query("SELECT DISTINCT blob FROM hold"))


def _with(wish: Wish, victim: Victim) -> Victim:
    return Victim(victim.digest, victim.source, victim.frees, f"{victim.why}, {wish.purpose}")
