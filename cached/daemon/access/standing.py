"""A caller's known right to a cached snapshot, and the decision that follows from it. Pure: no I/O."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from cached.errors import CachedError, SourceUnavailable, StoreDegraded, WorkerLost


@dataclass(frozen=True, slots=True)
class Standing:
    """The known right of a caller to a model. `age` is the age of its proof in seconds; None when there is no proof."""

    open: bool
    age: float | None
    ttl: float
    grace: float

    @property
    def fresh(self) -> bool:
        """Return True if the model may be served without a request to the source."""
        return self.open or (self.age is not None and 0 <= self.age <= self.ttl)

    @property
    def recent(self) -> bool:
        """Return True if the model may be served when the source was seen to be down."""
        return self.fresh or (self.age is not None and 0 <= self.age <= self.grace)


class Way(enum.Enum):
    """The way from a request to its answer, where a snapshot is cached under its name."""

    HIT = "hit"  # Serve it; no request is sent.
    PROVE = "prove"  # The name is fresh, the right is not: one request proves it.
    CHECK = "check"  # Resolve the name again; without an answer the snapshot may be served as it is.
    WHOLE = "whole"  # As if nothing were cached: a caller without proof must not learn that something is.


def way(standing: Standing, fresh: bool, offline: bool, one_probe: bool) -> Way:
    """Choose the way to an answer. `fresh`: the name need not be resolved again; `offline`: it must not be.
    `one_probe`: one file proves the right to all files. A right that is not fresh is proved even when offline, because
    an offline request must not be a way to receive a model that the source would now refuse."""
    if standing.fresh and (fresh or offline):
        return Way.HIT
    if not standing.recent:
        return Way.WHOLE
    return Way.PROVE if one_probe and (fresh or offline) else Way.CHECK


def may_be_stale(standing: Standing, error: CachedError) -> bool:
    """Return True if the cached snapshot may be served although `error` came in place of an answer.

    The grace is for a source that is down, as seen by a request to it. That we were too busy to send a request, or that
    the source throttled us, does not show that it is down: otherwise a caller that was refused yesterday could keep the
    daemon busy until it is served.
    """
    if standing.fresh:
        return isinstance(error, SourceUnavailable | WorkerLost | StoreDegraded)
    return standing.recent and isinstance(error, SourceUnavailable) and error.seen
