"""The users for whom models are being fetched."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping

User = int | None  # None: the daemon itself.


class Users:
    """Record the users of each model. A model may have several; each alone is reason enough to fetch it, so its cost
    counts for the user with the least."""

    def __init__(self) -> None:
        self._of: dict[str, dict[object, Collection[int]]] = {}  # By fetch: two may have the same users.

    @contextlib.contextmanager
    def fetching(self, model: str, uids: Collection[int]) -> Iterator[None]:
        """Count these users as wanting the model during the block; others may be added to `uids` meanwhile."""
        fetch = object()
        self._of.setdefault(model, {})[fetch] = uids
        try:
            yield
        finally:
            del self._of[model][fetch]
            if not self._of[model]:
                del self._of[model]

    def payer(self, model: str, has: Mapping[User, int]) -> User:
        """Return the model's user with the least in `has`; None, the daemon, if no user wants it."""
        fetches = self._of.get(model, {}).values()
        uids = {uid for uids in fetches for uid in uids} if len(fetches) > 1 else next(iter(fetches), ())
        return min(uids, key=lambda uid: has.get(uid, 0), default=None)
