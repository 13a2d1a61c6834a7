"""Callers: a uid and the credentials used for it: the caller's own, or the daemon's for users in the config."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cached.access import Credentials, unsigned
from cached.daemon.runtime.peer import Peer
from cached.model_ref import ModelRef


@dataclass(frozen=True, slots=True)
class Caller:
    """The source of a request. `uid` is None for the daemon itself. `gid` is used only to decide if the caller
    administers."""

    uid: int | None
    credentials: Credentials
    gid: int = -1

    @property
    def daemon(self) -> bool:
        return self.uid is None

    def used(self, ref: ModelRef) -> dict[str, str]:
        """Return the caller's own credentials that are shown to the source of `ref`; none where its URI forbids
        credentials."""
        return {} if unsigned(ref) else self.credentials.personal(ref.scheme)

    def with_own(self, ref: ModelRef) -> bool:
        """Return True where the daemon's own credentials are used for the caller at the source of `ref`."""
        return self.credentials.lend and not unsigned(ref) and not self.used(ref)


DAEMON = Caller(None, Credentials())


def caller_of(peer: Peer | None, credentials: Credentials, lend: bool) -> Caller:
    """Return the caller at `peer`; its uid and gid are -1 without one. `lend`: the daemon's credentials serve it."""
    return Caller(peer.uid if peer else -1, replace(credentials, lend=lend), peer.gid if peer else -1)
