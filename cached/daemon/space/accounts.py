"""The bytes that count towards each user's share of a disk, and the snapshots that are spared because of them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cached.daemon.space.eviction_policy import Accounts, Candidate, Rows, Wish
from cached.model import Digest
from cached.store.index.promises import FillRow, Reservation


@dataclass(frozen=True, slots=True)
class Ledger:
    """Settle the accounts of one disk, from everything on it that can count: snapshots (`rows`), fills, and the fill
    that a `wish` would begin.

    `share`: bytes that one user may have; None means any number, and then nothing counts. `charged`: bytes charged to
    each user for the space that its snapshots take beside their blobs.
    """

    rows: Rows
    fills: tuple[FillRow, ...]
    reservations: Mapping[str, Reservation]
    share: int | None
    charged: Mapping[int, int]
    wish: Wish | None = None

    def accounts(self) -> Accounts:
        """Return the accounts, settled in three steps: count the bytes that each user brought and fetches, let users
        keep the snapshots of others that they use as far as their shares have room, and take these off the accounts of
        the users that brought them."""
        if self.share is None:
            return Accounts()
        users = self._users()
        spared = self._spared(users)
        for candidate in self.rows.candidates:
            if candidate.digest in spared and candidate.brought_by is not None:
                users[candidate.brought_by].blobs.subtract(candidate.blobs)
        taken = {uid: self._taken(uid, user) for uid, user in users.items()}
        above = {uid: bytes_ - self.share for uid, bytes_ in taken.items() if bytes_ > self.share}
        blobs = {uid: users[uid].blobs for uid in above}
        return Accounts(above, self._owed({uid: users[uid] for uid in above}), spared, blobs)

    def _users(self) -> dict[int, _User]:
        users: dict[int, _User] = {uid: _User() for uid in self.charged}
        for candidate in self.rows.candidates:
            if candidate.brought_by is not None:
                users.setdefault(candidate.brought_by, _User()).blobs.update(candidate.blobs)
        for fill in self.fills:
            if fill.uid is not None:
                user = users.setdefault(fill.uid, _User())
                user.blobs.update(fill.holds)
                for key in fill.wants & self.reservations.keys():
                    user.coming[key] = self.reservations[key].size
                    user.landed[key] = self.reservations[key].bytes
        wish = self.wish
        if wish is not None and wish.fill is None and wish.uid is not None:
            user = users.setdefault(wish.uid, _User())
            user.blobs.update(wish.blobs)
            user.coming |= wish.wants
        return users

    def _spared(self, users: Mapping[int, _User]) -> frozenset[Digest]:
        """Return the snapshots that users keep: each user keeps those of others that it used, the last used first, as
        far as its share has room. A user with more than its share keeps none: otherwise users that have too much would
        keep their snapshots by using each other's."""
        uses: dict[int, list[tuple[float, Candidate]]] = {}
        for candidate in self.rows.candidates:
            for at, uid in candidate.shared:
                uses.setdefault(uid, []).append((at, candidate))
        found = set[Digest]()
        assert self.share is not None  # Otherwise nothing counts.
        for uid, theirs in uses.items():
            user = users.get(uid, _NOBODY)
            room, counted = self.share - self._taken(uid, user), set(+user.blobs)
            for _, candidate in sorted(theirs, key=lambda use: (-use[0], use[1].digest)):
                bytes_ = self._bytes(candidate.blobs - counted)
                bytes_ += candidate.overhead if self.charged else 0
                if bytes_ <= room:
                    room -= bytes_
                    counted |= candidate.blobs
                    found.add(candidate.digest)
        return frozenset(found)

    def _owed(self, above: Mapping[int, _User]) -> dict[int, int]:
        """Return, for each user with more than its share, the bytes above the share that are on the disk. Each blob is
        counted once, for one user."""
        assert self.share is not None
        blobs, keys, found = set[str](), set[str](), dict[int, int]()
        for uid, user in sorted(above.items()):
            own = set(+user.blobs) - blobs
            landed = {key: bytes_ for key, bytes_ in user.landed.items() if key not in keys}
            found[uid] = max(0, self._bytes(own) + sum(landed.values()) - self.share)
            blobs |= own
            keys |= landed.keys()
        return found

    def _taken(self, uid: int, user: _User) -> int:
        return self._bytes(+user.blobs) + sum(user.coming.values()) + self.charged.get(uid, 0)

    def _bytes(self, blobs: Iterable[str]) -> int:
        return sum(self.rows.sizes.get(blob, 0) for blob in blobs)


@dataclass(slots=True)
class _User:
    """Count one user's blobs, each with the number of its snapshots and fills that have it, and its downloads by key,
    with their full sizes (`coming`) and the bytes set aside for them (`landed`)."""

    blobs: Counter[str] = field(default_factory=Counter)
    coming: dict[str, int] = field(default_factory=dict)
    landed: dict[str, int] = field(default_factory=dict)


_NOBODY = _User()
