"""Who asks, and with whose credentials: the caller's own, or the daemon's for those whom the config names."""

from __future__ import annotations

import grp
import hashlib
import json
import os
import pwd
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cached.access import Credentials
from cached.daemon.space.usage import Peer


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

    def with_own(self, scheme: str) -> bool:
        """Whether the daemon's own credentials are used for it at this kind of source."""
        return self.credentials.lend and not self.credentials.personal(scheme)

    def key(self, scheme: str) -> str:
        """The same for all callers whose credentials are, there. Not to be written down."""
        personal = self.credentials.personal(scheme)
        if not personal:
            return "own" if self.credentials.lend else "nobody"
        return hashlib.sha256(json.dumps(sorted(personal.items())).encode()).hexdigest()


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
