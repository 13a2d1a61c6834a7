"""The order of eviction: snapshots of users above their share first, else the least recently used, and never one that
is leased, pinned or being filled. Pure."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field, replace

from cached.model import Digest


@dataclass(frozen=True, slots=True)
class Candidate:
    """A snapshot as eviction sees it. `blobs` are its digests; the bytes that it frees depend on the other snapshots
    that share them. `overhead`: bytes that it takes beside them."""

    digest: Digest
    source: str
    used_at: float
    blobs: frozenset[str]
    kept: bool = False  # Leased or pinned.
    young: bool = False  # Within its minimum residency.
    brought_by: int | None = None  # The user on whose account it was fetched.
    recent: bool = False  # Used within its minimum residency, by anybody.
    shared: tuple[tuple[float, int], ...] = ()  # Other users of it: time of the last use, and uid.
    overhead: int = 0


@dataclass(frozen=True, slots=True)
class Accounts:
    """The users with more than their share: see `accounts.Ledger`.

    `above`: the bytes above the share of each such user, counting its fills; `owed`: the part of them that is on the
    disk. `blobs`: the blobs of each such user, each with the number of its snapshots and fills that have it. `spared`:
    snapshots that users keep within their shares although others brought them.
    """

    above: Mapping[int, int] = field(default_factory=dict)
    owed: Mapping[int, int] = field(default_factory=dict)
    spared: frozenset[Digest] = frozenset()
    blobs: Mapping[int, Counter[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rows:
    """The input of `choose`: snapshots, bytes by blob, and the blobs that fills hold.

    `gone`: snapshots that are evicted anyway, for another fill. `greedy`: the user for which room is made, if it has
    more than its share. `spare_young` and `spare_within`: as in `Wish`. `yields`: bytes that fills of users with more
    than their share would release, and that are not taken from others. `excess`: bytes that snapshots take beside their
    blobs and that count; `charged`: the part of them charged to each user.
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
    overhead: int = 0  # As the candidate's; `frees` includes the part that counts.

    def explained(self, purpose: str) -> Victim:
        """Return the victim with the purpose of its eviction added to the reason."""
        return replace(self, why=f"{self.why}, {purpose}")


@dataclass(frozen=True, slots=True)
class Freed:
    """The snapshots that were evicted (or would be), the bytes that this freed, and the bytes by which it is `short` of
    the wish."""

    victims: tuple[Victim, ...]
    freed: int
    short: int


@dataclass(frozen=True, slots=True)
class Wish:
    """A request for room. `purpose` ends the sentence that is recorded for each victim.

    `spare_young`: rather find too little room than evict a snapshot fetched a moment ago. `spare_within`: no caller
    waits for the room, so rather find too little than evict snapshots of users within their shares, as long as others
    have too much. `wants` (bytes by key) and `blobs` name the contents that the room is for: downloads to continue,
    damaged blobs to replace, and cached blobs to count on; `overhead`: bytes that a snapshot of them will take beside
    them. `uid`: the user on whose account it is, if any; `fill`: the fill that it is for, once that runs.
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
    """A bound on the bytes that the models below a URI prefix may take."""

    prefix: str
    limit: int

    def __str__(self) -> str:
        return f"the budget of {self.prefix} ({self.limit:,} bytes)"

    def covers(self, source: str) -> bool:
        rest = source.removeprefix(self.prefix)
        return rest != source and (self.prefix.endswith("/") or rest == "" or rest[0] in "/@")


def budget_of(source: str, budgets: Mapping[str, int]) -> Budget | None:
    """Return the budget with the longest prefix that covers the source; None if there is none."""
    found = [Budget(prefix, limit) for prefix, limit in budgets.items() if Budget(prefix, limit).covers(source)]
    return max(found, key=lambda budget: len(budget.prefix), default=None)


def choose(rows: Rows, need: int) -> list[Victim]:
    """Return the snapshots to evict first to free `need` bytes, in order; all that may be evicted when that is not
    enough.

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
    """Track the bytes that are left to be freed, and of which users, as snapshots are evicted one by one."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._links = Counter(blob for candidate in rows.candidates for blob in candidate.blobs)
        self._excess, self._charged = rows.excess, dict(rows.charged)
        self._above, self._owed = dict(rows.accounts.above), dict(rows.accounts.owed)
        self._blobs = {uid: Counter(blobs) for uid, blobs in rows.accounts.blobs.items()}

    def take(self, candidate: Candidate) -> int:
        """Count the snapshot as evicted, and return the bytes that this frees."""
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
        """Take the snapshot off the account of its user, if that user has more than its share: `beside`, and the blobs
        that no other snapshot or fill of this user has. A spared snapshot is on nobody's account."""
        uid = candidate.brought_by
        if uid not in self._above or candidate.digest in self._rows.accounts.spared:
            return
        blobs = self._blobs[uid]
        blobs.subtract(candidate.blobs)
        bytes_ = sum(self._rows.sizes.get(blob, 0) for blob in candidate.blobs if blobs[blob] == 0)
        self._above[uid] -= bytes_ + beside
        self._owed[uid] -= bytes_

    def owed(self) -> int:
        """Return the bytes that users with more than their share have to release, and that are therefore not taken from
        others. Where no caller waits for the room, these are all bytes that they owe; otherwise the bytes that their
        fills would release."""
        if self._rows.spare_within:
            return sum(max(0, bytes_) for bytes_ in self._owed.values())
        return self._rows.yields

    def due(self, candidate: Candidate, order: str, need: int) -> bool:
        """Return True if the reason to evict the candidate still applies when `need` bytes are needed."""
        owner = candidate.brought_by
        if order is ABOVE:
            return owner is not None and self._above.get(owner, 0) > 0
        if order is MANY:
            return owner is not None and self._charged.get(owner, 0) > 0 and self._stays(candidate.blobs)
        if order in (LRU, YOUNG) and self._rows.greedy is None:
            return need > self.owed()
        return True

    def _stays(self, blobs: frozenset[str]) -> bool:
        """Return True if evicting a snapshot with these blobs would free none of them."""
        return all(self._links[blob] > 1 or blob in self._rows.held for blob in blobs)


LRU = "least recently used"
YOUNG = "least recently used of those fetched a moment ago"
NOBODYS = "least recently used of what no user brought"
MANY = "one of many that the same user brought of files that others have as well"
ABOVE = "least recently used of what a user brought that has more than its share"
OWN = "least recently used of what the same user brought, who has more than its share"


def _ordinary(free: list[Candidate], rows: Rows, state: _State) -> Iterator[tuple[Candidate, str]]:
    """Yield candidates in the order of eviction, each with its reason. First those that cost nothing to make again, of
    users with so many snapshots that these take room from others; then those of users with more than their share; both
    young or not, but none that is spared. Then all by use, those fetched a moment ago last, for the bytes that users
    with more than their share do not owe. For the bytes that these owe, snapshots that no user brought."""
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
    """Yield candidates for a user with more than its share: its own; then idle ones that no user brought. Spared ones
    are left out."""
    yield from ((each, OWN) for each in free if each.brought_by == uid and each.digest not in spared)
    nobodys = (each for each in free if each.brought_by is None and not each.recent and not each.young)
    yield from ((each, NOBODYS) for each in nobodys if each.digest not in spared)


def _victim(candidate: Candidate, freed: int, order: str) -> Victim:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(candidate.used_at))
    why = f"{order} (last at {stamp})"
    return Victim(candidate.digest, candidate.source, freed, why, candidate.used_at, candidate.overhead)
