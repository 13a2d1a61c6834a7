"""Who asks, and with whose credentials: the caller's own, or the daemon's for those whom the config names."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cached.access import Credentials, unsigned
from cached.daemon.runtime.peer import Peer
from cached.model_ref import ModelRef


@dataclass(frozen=True, slots=True)
class Caller:
    """`uid` is None for the daemon itself. `gid` is only asked when it matters who administers."""

    uid: int | None
    credentials: Credentials
    gid: int = -1

    @property
    def daemon(self) -> bool:
        return self.uid is None

    def used(self, ref: ModelRef) -> dict[str, str]:
        """The caller's own credentials that its source is shown; none where the URI asks for that."""
        return {} if unsigned(ref) else self.credentials.personal(ref.scheme)

    def with_own(self, ref: ModelRef) -> bool:
        """Whether the daemon's own credentials are used for it there."""
        return self.credentials.lend and not unsigned(ref) and not self.used(ref)


DAEMON = Caller(None, Credentials())


def caller_of(peer: Peer | None, credentials: Credentials, lend: bool) -> Caller:
    """`lend`: whether the daemon's own credentials serve the peer."""
    return Caller(peer.uid if peer else -1, replace(credentials, lend=lend), peer.gid if peer else -1)
