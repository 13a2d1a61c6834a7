"""What is known of a caller's right to what is held, and what follows from it. Pure: no I/O."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from cached.errors import CachedError, SourceUnavailable, StoreDegraded, WorkerLost


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a caller's right to a model. `age` in seconds of the proof; None when there is none."""

    open: bool
    age: float | None
    ttl: float
    grace: float

    @property
    def fresh(self) -> bool:
        """It may be handed out without asking the source."""
        return self.open or (self.age is not None and 0 <= self.age <= self.ttl)

    @property
    def recent(self) -> bool:
        """It may be handed out if the source was seen to be down."""
        return self.fresh or (self.age is not None and 0 <= self.age <= self.grace)


class Way(enum.Enum):
    """From a request to its answer, where something is held under its name."""

    HIT = "hit"  # Hand it out; nobody is asked.
    PROVE = "prove"  # The name is fresh, the right is not: one question tells.
    CHECK = "check"  # Ask what the name means now; if nobody answers it may be handed out as it is.
    WHOLE = "whole"  # As if nothing were held: who has no proof is not to notice whether something is.


def way(standing: Standing, fresh: bool, offline: bool, one_probe: bool) -> Way:
    """`fresh`: the name need not be asked again; `offline`: nor is it to be. `one_probe`: one file proves the right to
    all of it. Offline too a right that is not fresh is asked about: to ask for nothing else must not be a way to be
    given what the source would refuse by now."""
    if standing.fresh and (fresh or offline):
        return Way.HIT
    if not standing.recent:
        return Way.WHOLE
    return Way.PROVE if one_probe and (fresh or offline) else Way.CHECK


def may_be_stale(standing: Standing, error: CachedError) -> bool:
    """Whether what is held may be handed out though this came in place of an answer.

    The grace is for a source that is down, as whoever asked it has seen. That we were too busy to ask, or were asked to
    ask less, says nothing of the source: else a caller that was refused yesterday could keep us busy until then.
    """
    if standing.fresh:
        return isinstance(error, SourceUnavailable | WorkerLost | StoreDegraded)
    return standing.recent and isinstance(error, SourceUnavailable) and error.seen
