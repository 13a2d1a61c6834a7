"""The books of one disk: its contents, its running fills, and the room they leave for a fill that needs some. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from cached.daemon.space.accounts import Ledger
from cached.daemon.space.eviction_policy import Accounts, Budget, Rows, Victim, Wish, choose
from cached.model import Digest
from cached.store.index.promises import FillRow, Reservation
from cached.store.overhead import NONE, Overhead


@dataclass(frozen=True, slots=True)
class Books:
    """The contents of one disk and its running fills. `rows` has nothing in it that is specific to one fill. `share`:
    bytes that a user's models may take before they take room from others; None means no bound. `loose`: bytes that are
    of no use to anyone, and bytes that would have to be fetched again."""

    limit: int
    used: int
    rows: Rows
    reservations: Mapping[str, Reservation]
    fills: tuple[FillRow, ...]
    promised: Mapping[Digest, int]
    share: int | None
    loose: tuple[int, int] = (0, 0)
    overhead: Overhead = NONE

    @property
    def free(self) -> int:
        """Bytes that are neither used nor set aside."""
        return self.limit - self.used - sum(each.bytes for each in self.reservations.values())

    def accounts(self, wish: Wish | None = None) -> Accounts:
        """Return the users with more than their share, counting the fill that `wish` would begin, and the snapshots
        that are spared."""
        ledger = Ledger(self.rows, self.fills, self.reservations, self.share, self.charged(wish), wish)
        return ledger.accounts()

    def charged(self, wish: Wish | None = None) -> dict[int, int]:
        """Return the bytes of the excess of overhead charged to each user, counting the fill that `wish` would
        begin."""
        taken = Counter[int | None]()
        for candidate in self.rows.candidates:
            taken[candidate.brought_by] += candidate.overhead
        for fill in self.fills:
            taken[fill.uid] += fill.overhead
        if wish is not None and wish.fill is None:
            taken[wish.uid] += wish.overhead
        return {uid: bytes_ for uid, bytes_ in self.overhead.charges(taken).items() if uid is not None}

    def promised_to(self, fills: Iterable[FillRow]) -> frozenset[Digest]:
        """Return the snapshots that are promised to these fills and may be evicted."""
        kept = {candidate.digest for candidate in self.rows.candidates if candidate.kept}
        theirs = {fill.id for fill in fills}
        return frozenset(digest for digest, fill in self.promised.items() if fill in theirs and digest not in kept)


@dataclass(frozen=True, slots=True)
class Decision:
    """The room that can be found for a fill: `victims` in their order, and the bytes by which it is `short` of its full
    need.

    `later`: fills that rank after it, the last one first; they would release `yields` bytes. `greedy`: it is for a user
    with more than its share. `over`: the budget that it is short of, if that is the cause.
    """

    victims: tuple[Victim, ...]
    short: int
    later: tuple[int, ...] = ()
    yields: int = 0
    greedy: bool = False
    over: Budget | None = None

    @property
    def possible(self) -> bool:
        return self.short <= self.yields


def decide(
    books: Books,
    wish: Wish,
    budget: Budget | None,
    under: Collection[str],
    stoppable: Collection[int] | None = None,
) -> Decision:
    """Decide if a fill can have all the room that it wishes for, and return the victims for it: those of its budget
    first, if it has one.

    Fills of users with more than their share rank after all others, and among equals the younger one ranks after the
    older. Snapshots promised to fills that rank before this one are theirs. `under`: sources that count towards the
    budget. `stoppable`: fills that could give way now; None means all.
    """
    if wish.fill is not None:  # Files received meanwhile need no more room.
        wish = replace(wish, wants={key: size for key, size in wish.wants.items() if key in books.reservations})
    accounts = books.accounts(wish)
    greedy = wish.uid is not None and wish.uid in accounts.above
    before, later = _ranked(books, wish, greedy, accounts)
    later = [fill for fill in later if stoppable is None or fill.id in stoppable]
    theirs = [] if greedy else [fill for fill in later if fill.uid in accounts.above]
    # Blobs held by fills that give way are free once their snapshots are evicted too.
    held = books.rows.held.difference(*(fill.holds for fill in theirs)) | wish.blobs
    held = held.union(*(fill.holds for fill in books.fills if fill not in theirs))
    claims = _Claims(books, wish, before, later)
    gone = books.promised_to(before)
    rows = replace(books.rows, held=held, gone=gone, accounts=accounts, greedy=wish.uid if greedy else None)
    rows = replace(rows, excess=books.overhead.excess + claims.overhead, charged=books.charged(wish))
    tight = Decision((), 0) if budget is None else _within(budget, under, rows, claims, theirs)
    if not tight.possible:
        return replace(tight, greedy=greedy)
    gone |= {victim.digest for victim in tight.victims}
    chosen = choose(replace(rows, gone=gone, yields=claims.yields(theirs)), claims.needed - books.loose[0])
    victims = (*tight.victims, *(victim.explained(wish.purpose) for victim in chosen))
    gone |= {victim.digest for victim in chosen}
    short = claims.needed - books.loose[0] - freed(rows, gone) - books.loose[1]
    whole = Decision(victims, max(0, short), tuple(fill.id for fill in later), claims.yields(later), greedy)
    return whole if tight.short <= 0 or not whole.possible else replace(tight, victims=victims, greedy=greedy)


def _ranked(books: Books, wish: Wish, greedy: bool, accounts: Accounts) -> tuple[list[FillRow], list[FillRow]]:
    """Return the fills that rank before the wish, the first one first, and those after it, the last one first."""

    def rank(fill: FillRow) -> tuple[bool, int]:
        return fill.uid in accounts.above, fill.id

    mine = (greedy, wish.fill if wish.fill is not None else 1 << 62)
    others = sorted((fill for fill in books.fills if fill.id != wish.fill), key=rank)
    return [fill for fill in others if rank(fill) < mine], [fill for fill in reversed(others) if rank(fill) > mine]


def _within(budget: Budget, under: Collection[str], rows: Rows, claims: _Claims, theirs: list[FillRow]) -> Decision:
    """Decide what has to be evicted below the budget, and by which fills it could be kept if that is too little."""
    inner = _only(rows, under)
    need = claims.under(budget, under, inner) - budget.limit
    inner = replace(inner, yields=claims.yields([fill for fill in theirs if fill.source in under]))
    victims = tuple(victim.explained(f"to keep {budget}") for victim in choose(inner, need))
    short = need - freed(inner, rows.gone | {victim.digest for victim in victims})
    fills = [fill for fill in claims.later if fill.source in under]
    return Decision(victims, short, tuple(fill.id for fill in fills), claims.yields(fills), over=budget)


def freed(rows: Rows, gone: Collection[Digest]) -> int:
    """Return the bytes that are free once these snapshots are evicted."""
    links = Counter(blob for candidate in rows.candidates for blob in candidate.blobs)
    links.subtract(Counter(blob for each in rows.candidates if each.digest in gone for blob in each.blobs))
    touched = {blob for each in rows.candidates if each.digest in gone for blob in each.blobs}
    beside = min(rows.excess, sum(each.overhead for each in rows.candidates if each.digest in gone))
    return beside + sum(rows.sizes.get(blob, 0) for blob in touched if links[blob] == 0 and blob not in rows.held)


def _only(rows: Rows, under: Collection[str]) -> Rows:
    """Return only the rows of these sources, so that only their snapshots count as sharing a blob. Overhead is left
    out, because budgets are for blobs."""
    candidates = tuple(each for each in rows.candidates if each.source in under)
    return replace(rows, candidates=candidates, excess=0, charged={})


@dataclass(frozen=True, slots=True)
class _Claims:
    """Count the bytes that a wish and the fills before it need, and the bytes that the fills after it have."""

    books: Books
    wish: Wish
    before: list[FillRow]
    later: list[FillRow]

    @property
    def needed(self) -> int:
        """Bytes to free for the wish and the fills before it."""
        reservations = self.books.reservations
        keys = {key for fill in self.before for key in fill.wants} | self.wish.wants.keys()
        lacks = sum(reservations[key].lacks for key in keys if key in reservations)
        new = sum(size for key, size in self.wish.wants.items() if key not in reservations)
        return lacks + new + self.overhead - self.books.free

    @property
    def overhead(self) -> int:
        """Bytes of the limit that the wish takes beside its blobs; 0 for a running fill, for which they are set aside
        already."""
        return self.books.overhead.more(self.wish.overhead) if self.wish.fill is None else 0

    def under(self, budget: Budget, under: Collection[str], rows: Rows) -> int:
        """Return the bytes that would count towards the budget: those of the snapshots in `rows`, all those of the wish
        and of the fills before it, and those that the fills after it have already."""
        reservations = self.books.reservations
        blobs = set(self.wish.blobs).union(*(candidate.blobs for candidate in rows.candidates))
        keys: dict[str, int] = {}
        for fill in self.later:
            if fill.source in under:
                blobs |= fill.holds
                keys |= {key: reservations[key].bytes for key in fill.wants if key in reservations}
        for fill in self.before:
            if fill.source in under:
                blobs |= fill.holds
                keys |= {key: reservations[key].size for key in fill.wants if key in reservations}
        keys |= self.wish.wants
        return sum(rows.sizes.get(blob, 0) for blob in blobs) + sum(keys.values())

    def yields(self, fills: list[FillRow]) -> int:
        """Return the bytes that only these fills need, and that would be free without them."""
        reservations, rows = self.books.reservations, self.books.rows
        gone = {fill.id for fill in fills}
        stay = [fill for fill in [*self.before, *self.later] if fill.id not in gone]
        keys = {key for fill in fills for key in fill.wants} - self.wish.wants.keys()
        keys -= {key for fill in stay for key in fill.wants}
        blobs = {blob for fill in fills for blob in fill.holds} - self.wish.blobs
        blobs -= {blob for fill in stay for blob in fill.holds}
        blobs -= {blob for candidate in rows.candidates for blob in candidate.blobs}
        beside = min(self.books.overhead.excess, sum(fill.overhead for fill in fills))
        landed = sum(reservations[key].bytes for key in keys if key in reservations)
        return beside + landed + sum(rows.sizes.get(blob, 0) for blob in blobs)
