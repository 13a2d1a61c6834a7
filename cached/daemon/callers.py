"""Who asks, and with whose credentials: the caller's own, or the daemon's for those whom the config names."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cached.access import Credentials, unsigned
from cached.daemon.space.usage import Peer
from cached.model import ModelRef


@dataclass(frozen=True, slots=True)
class Caller:
    """`uid` is None for the daemon itself. `gid` is only asked when it matters who administers."""

    uid: int | None
    credentials: Credentials
    gid: int = -1

    @property
    def daemon(self) -> bool:
        return self.uid is None

    def administers(self, admin_group: str) -> bool:
        """Whether it is the daemon, root, the daemon's own user, or in the admin group. That may take a while."""
        return self.uid is None or administers(Peer(0, self.uid, self.gid), admin_group)

    def used(self, ref: ModelRef) -> dict[str, str]:
        """The caller's own credentials that its source is shown; none where the URI asks for that."""
        return {} if unsigned(ref) else self.credentials.personal(ref.scheme)

    def with_own(self, ref: ModelRef) -> bool:
        """Whether the daemon's own credentials are used for it there."""
        return self.credentials.lend and not unsigned(ref) and not self.used(ref)


DAEMON = Caller(None, Credentials())


def caller_of(peer: Peer | None, credentials: Credentials, names: Sequence[str]) -> Caller:
    """`names`: whom the daemon's own credentials serve, as users, `@groups` or `*` for everybody."""
    lend = "*" in names or (peer is not None and served(peer, names))
    return Caller(peer.uid if peer else -1, replace(credentials, lend=lend), peer.gid if peer else -1)


def administers(peer: Peer, admin_group: str) -> bool:
    return peer.uid in (0, os.geteuid()) or in_group(peer, admin_group)


def served(peer: Peer, names: Sequence[str]) -> bool:
    """Whether the names cover the peer. Root and the daemon's own user are always covered."""
    if peer.uid in (0, os.geteuid()) or str(peer.uid) in names:
        return True
    try:
        user = pwd.getpwuid(peer.uid).pw_name
    except KeyError:
        user = ""
    return user in names or any(in_group(peer, name[1:]) for name in names if name.startswith("@"))


def in_group(peer: Peer, group: str) -> bool:
    """Whether it is the peer's primary group, or one of its user's."""
    try:
        wanted = grp.getgrnam(group).gr_gid
        return wanted == peer.gid or wanted in os.getgrouplist(pwd.getpwuid(peer.uid).pw_name, peer.gid)
    except KeyError:
        return False
