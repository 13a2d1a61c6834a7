"""Who has to go: the least recently used first, and never what is leased, pinned or being filled. Pure."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

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

    `spare_young`: rather too little room than something fetched a moment ago. `within`: only what counts towards this
    budget. `keys` and `blobs` are what the room is for: downloads that it would go on with, damaged blobs that it would
    replace, and blobs that are here and that it counts on.
    """

    purpose: str
    spare_young: bool = False
    within: Budget | None = None
    keys: frozenset[str] = frozenset()
    blobs: frozenset[str] = frozenset()


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
