"""Who has to go: what a user has above its share first, else the least recently used, and never what is leased, pinned
or being filled. Pure."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from cached.model import Digest


@dataclass(frozen=True, slots=True)
class Candidate:
    """A snapshot as eviction sees it. `blobs` are its digests; what it frees depends on who shares them."""

    digest: Digest
    source: str
    used_at: float
    blobs: frozenset[str]
    kept: bool = False  # Leased or pinned.
    young: bool = False  # Within its minimum residency.
    brought_by: int | None = None  # The user on whose account it was fetched.
    recent: bool = False  # Used within its minimum residency, by anybody …
    shared: bool = False  # … and by somebody else than who brought it.


@dataclass(frozen=True, slots=True)
class Rows:
    """What `choose` looks at: snapshots, bytes by blob, and the blobs that fills hold.

    `gone`: snapshots that go anyway, for another. `above`: bytes above its share of each user that has more. `greedy`:
    such a user, when it is for it that room is made. `spare_young`: rather too little room than one of the young.
    """

    candidates: tuple[Candidate, ...]
    sizes: Mapping[str, int]
    held: frozenset[str] = frozenset()
    gone: frozenset[Digest] = frozenset()
    above: Mapping[int, int] = field(default_factory=dict)
    greedy: int | None = None
    spare_young: bool = False


@dataclass(frozen=True, slots=True)
class Victim:
    digest: Digest
    source: str
    frees: int
    why: str
    used_at: float = 0.0

    def explained(self, purpose: str) -> Victim:
        """With what it goes for."""
        return replace(self, why=f"{self.why}, {purpose}")


@dataclass(frozen=True, slots=True)
class Freed:
    """What went (or would go), and how many bytes short of the wish that left it."""

    victims: tuple[Victim, ...]
    freed: int
    short: int


@dataclass(frozen=True, slots=True)
class Wish:
    """Why room is made. `purpose` ends the sentence that is recorded for each victim.

    `spare_young`: rather too little room than something fetched a moment ago. `wants` (bytes by key) and `blobs` are
    what the room is for: downloads that it would go on with, damaged blobs that it would replace, and blobs that are
    here and that it counts on. `uid`: on whose account, if on anybody's; `fill`: for which, once it runs.
    """

    purpose: str
    spare_young: bool = False
    wants: Mapping[str, int] = field(default_factory=dict)
    blobs: frozenset[str] = frozenset()
    uid: int | None = None
    fill: int | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes that the models below a URI prefix may take."""

    prefix: str
    limit: int

    def __str__(self) -> str:
        return f"the budget of {self.prefix} ({self.limit:,} bytes)"

    def covers(self, source: str) -> bool:
        rest = source.removeprefix(self.prefix)
        return rest != source and (self.prefix.endswith("/") or rest == "" or rest[0] in "/@")


def budget_of(source: str, budgets: Mapping[str, int]) -> Budget | None:
    """The one with the longest prefix."""
    found = [Budget(prefix, limit) for prefix, limit in budgets.items() if Budget(prefix, limit).covers(source)]
    return max(found, key=lambda budget: len(budget.prefix), default=None)


def choose(rows: Rows, need: int) -> list[Victim]:
    """The snapshots to go first whose going frees `need` bytes; all that may go when that is not enough.

    A blob is freed with the last of its snapshots, and never while a fill holds it.
    """
    links = Counter(blob for candidate in rows.candidates for blob in candidate.blobs)

    def frees(candidate: Candidate) -> int:
        links.subtract(candidate.blobs)
        return sum(rows.sizes.get(b, 0) for b in candidate.blobs if links[b] == 0 and b not in rows.held)

    need -= sum(frees(candidate) for candidate in rows.candidates if candidate.digest in rows.gone)
    free = [each for each in rows.candidates if not each.kept and each.digest not in rows.gone]
    free.sort(key=lambda each: (each.young, each.used_at, each.digest))
    order = _ordinary(free, rows) if rows.greedy is None else _greedy(free, rows.greedy)
    above, victims, chosen = dict(rows.above), list[Victim](), set[Digest]()
    for candidate, order_ in order:
        owner = candidate.brought_by
        if need <= 0:
            break
        if candidate.digest in chosen or (order_ is ABOVE and (owner is None or above.get(owner, 0) <= 0)):
            continue
        chosen.add(candidate.digest)
        freed = frees(candidate)
        need -= freed
        if owner in above and owner is not None:
            above[owner] -= freed
        victims.append(_victim(candidate, freed, order_))
    return victims


LRU = "least recently used"
YOUNG = "least recently used of those fetched a moment ago"
ABOVE = "least recently used of what a user brought that has more than its share"
OWN = "least recently used of what the same user brought, who has more than its share"


def _ordinary(free: list[Candidate], rows: Rows) -> Iterator[tuple[Candidate, str]]:
    """Of users with more than their share first, young or not, but what others used lately; then by use, those fetched
    a moment ago last."""
    mine = (candidate for candidate in free if candidate.brought_by in rows.above and not candidate.shared)
    yield from ((candidate, ABOVE) for candidate in sorted(mine, key=lambda each: (each.used_at, each.digest)))
    yield from (
        (candidate, YOUNG if candidate.young else LRU)
        for candidate in free
        if not (rows.spare_young and candidate.young)
    )


def _greedy(free: list[Candidate], uid: int) -> Iterator[tuple[Candidate, str]]:
    """For a user with more than its share: its own, but what others used lately; then what is nobody's, and idle."""
    yield from ((each, OWN) for each in free if each.brought_by == uid and not each.shared)
    yield from ((each, LRU) for each in free if each.brought_by is None and not each.recent and not each.young)


def _victim(candidate: Candidate, freed: int, order: str) -> Victim:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(candidate.used_at))
    return Victim(candidate.digest, candidate.source, freed, f"{order} (last at {stamp})", candidate.used_at)
