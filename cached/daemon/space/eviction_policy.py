"""Who has to go: what a user has above its share first, else the least recently used, and never what is leased, pinned
or being filled. Pure."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field, replace

from cached.model import Digest


@dataclass(frozen=True, slots=True)
class Candidate:
    """A snapshot as eviction sees it. `blobs` are its digests; what it frees depends on who shares them. `overhead`:
    bytes that it takes beside them."""

    digest: Digest
    source: str
    used_at: float
    blobs: frozenset[str]
    kept: bool = False  # Leased or pinned.
    young: bool = False  # Within its minimum residency.
    brought_by: int | None = None  # The user on whose account it was fetched.
    recent: bool = False  # Used within its minimum residency, by anybody.
    shared: tuple[tuple[float, int], ...] = ()  # Who else than who brought it has used it: last when, and who.
    overhead: int = 0


@dataclass(frozen=True, slots=True)
class Accounts:
    """Who has more than its share, see `accounts.Ledger`.

    `above`: bytes above it of each such user, with its fills; `owed`: those of them that are on the disk. `blobs`: what
    such a user has, each with the number of its snapshots and fills that have it. `spared`: snapshots that users keep
    within their shares though others brought them.
    """

    above: Mapping[int, int] = field(default_factory=dict)
    owed: Mapping[int, int] = field(default_factory=dict)
    spared: frozenset[Digest] = frozenset()
    blobs: Mapping[int, Counter[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rows:
    """What `choose` looks at: snapshots, bytes by blob, and the blobs that fills hold.

    `gone`: snapshots that go anyway, for another. `greedy`: a user with more than its share, when it is for it that
    room is made. `spare_young` and `spare_within`: as of the `Wish`. `yields`: bytes that fills of users with more than
    their share would give back, and that are not taken from others. `excess`: bytes that snapshots take beside their
    blobs and that count; `charged`: those of each user.
    """

    candidates: tuple[Candidate, ...]
    sizes: Mapping[str, int]
    held: frozenset[str] = frozenset()
    gone: frozenset[Digest] = frozenset()
    accounts: Accounts = Accounts()
    greedy: int | None = None
    spare_young: bool = False
    spare_within: bool = False
    yields: int = 0
    excess: int = 0
    charged: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Victim:
    digest: Digest
    source: str
    frees: int
    why: str
    used_at: float = 0.0
    overhead: int = 0  # As the candidate's; of `frees` it is what counts of it.

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

    `spare_young`: rather too little room than something fetched a moment ago. `spare_within`: nobody waits for it, so
    rather too little room than something of users within their shares, as long as others have too much. `wants` (bytes
    by key) and `blobs` are what the room is for: downloads that it would go on with, damaged blobs that it would
    replace, and blobs that are here and that it counts on; `overhead` is for what a snapshot of it will take beside
    them. `uid`: on whose account, if on anybody's; `fill`: for which, once it runs.
    """

    purpose: str
    spare_young: bool = False
    spare_within: bool = False
    wants: Mapping[str, int] = field(default_factory=dict)
    blobs: frozenset[str] = frozenset()
    uid: int | None = None
    fill: int | None = None
    overhead: int = 0


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
    state = _State(rows)
    need -= sum(state.take(candidate) for candidate in rows.candidates if candidate.digest in rows.gone)
    free = [each for each in rows.candidates if not each.kept and each.digest not in rows.gone]
    free.sort(key=lambda each: (each.young, each.used_at, each.digest))
    order = _ordinary(free, rows, state) if rows.greedy is None else _greedy(free, rows.greedy, rows.accounts.spared)
    victims, chosen = list[Victim](), set[Digest]()
    for candidate, order_ in order:
        if need <= 0:
            break
        if candidate.digest in chosen or not state.due(candidate, order_, need):
            continue
        chosen.add(candidate.digest)
        freed = state.take(candidate)
        need -= freed
        victims.append(_victim(candidate, freed, order_))
    return victims


class _State:
    """What is left to be freed as snapshots go one by one, and of whom."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._links = Counter(blob for candidate in rows.candidates for blob in candidate.blobs)
        self._excess, self._charged = rows.excess, dict(rows.charged)
        self._above, self._owed = dict(rows.accounts.above), dict(rows.accounts.owed)
        self._blobs = {uid: Counter(blobs) for uid, blobs in rows.accounts.blobs.items()}

    def take(self, candidate: Candidate) -> int:
        """It goes: the bytes that this frees."""
        self._links.subtract(candidate.blobs)
        sizes, held = self._rows.sizes, self._rows.held
        freed = sum(sizes.get(blob, 0) for blob in candidate.blobs if self._links[blob] == 0 and blob not in held)
        beside = min(candidate.overhead, self._excess)
        self._excess -= beside
        if candidate.brought_by in self._charged:
            self._charged[candidate.brought_by] -= beside
        self._settle(candidate, beside)
        return freed + beside

    def _settle(self, candidate: Candidate, beside: int) -> None:
        """Take it off the account of its user, if that has more than its share: what no other snapshot or fill of the
        same user has. What is spared is on nobody's account."""
        uid = candidate.brought_by
        if uid not in self._above or candidate.digest in self._rows.accounts.spared:
            return
        blobs = self._blobs[uid]
        blobs.subtract(candidate.blobs)
        bytes_ = sum(self._rows.sizes.get(blob, 0) for blob in candidate.blobs if blobs[blob] == 0)
        self._above[uid] -= bytes_ + beside
        self._owed[uid] -= bytes_

    def owed(self) -> int:
        """Bytes that it is for users with more than their share to give back, and so not for others. Where nobody waits
        for the room it is all that they have; else what can be had of their fills."""
        if self._rows.spare_within:
            return sum(max(0, bytes_) for bytes_ in self._owed.values())
        return self._rows.yields

    def due(self, candidate: Candidate, order: str, need: int) -> bool:
        """Whether there is still the reason for which it would go, when so many bytes are needed."""
        owner = candidate.brought_by
        if order is ABOVE:
            return owner is not None and self._above.get(owner, 0) > 0
        if order is MANY:
            return owner is not None and self._charged.get(owner, 0) > 0 and self._stays(candidate.blobs)
        if order in (LRU, YOUNG) and self._rows.greedy is None:
            return need > self.owed()
        return True

    def _stays(self, blobs: frozenset[str]) -> bool:
        """Whether none of them would go with a snapshot that has them."""
        return all(self._links[blob] > 1 or blob in self._rows.held for blob in blobs)


LRU = "least recently used"
YOUNG = "least recently used of those fetched a moment ago"
NOBODYS = "least recently used of what no user brought"
MANY = "one of many that the same user brought of files that others have as well"
ABOVE = "least recently used of what a user brought that has more than its share"
OWN = "least recently used of what the same user brought, who has more than its share"


def _ordinary(free: list[Candidate], rows: Rows, state: _State) -> Iterator[tuple[Candidate, str]]:
    """What costs nothing to make again first, of users who made so many snapshots that these take others' room; then
    of users with more than their share; both young or not, but what is spared. Then by use, those fetched a moment ago
    last, as far as it is not for users with more than their share to give back; for that what is nobody's."""
    spared, by_use = rows.accounts.spared, sorted(free, key=lambda each: (each.used_at, each.digest))
    of_others = [each for each in by_use if each.digest not in spared]
    many = (each for each in of_others if each.brought_by in rows.charged and not (rows.spare_young and each.young))
    yield from ((candidate, MANY) for candidate in many)
    yield from ((candidate, ABOVE) for candidate in of_others if candidate.brought_by in rows.accounts.above)
    yield from (
        (candidate, YOUNG if candidate.young else LRU)
        for candidate in free
        if not (rows.spare_young and candidate.young)
    )
    if state.owed() > 0:
        nobodys = (each for each in of_others if each.brought_by is None and not each.young)
        yield from ((each, NOBODYS) for each in nobodys if rows.spare_within or not each.recent)


def _greedy(free: list[Candidate], uid: int, spared: Container[Digest]) -> Iterator[tuple[Candidate, str]]:
    """For a user with more than its share: its own, but what is spared; then what is nobody's, and idle."""
    yield from ((each, OWN) for each in free if each.brought_by == uid and each.digest not in spared)
    nobodys = (each for each in free if each.brought_by is None and not each.recent and not each.young)
    yield from ((each, NOBODYS) for each in nobodys if each.digest not in spared)


def _victim(candidate: Candidate, freed: int, order: str) -> Victim:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(candidate.used_at))
    why = f"{order} (last at {stamp})"
    return Victim(candidate.digest, candidate.source, freed, why, candidate.used_at, candidate.overhead)
