"""Decide which users administer and which may use the daemon's own credentials. Names of users and groups may come over
the network (LDAP, SSSD), which may be slow or down, so they are looked up in threads of their own, never on the event
loop."""

from __future__ import annotations

import asyncio
import grp
import logging
import os
import pwd
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cached.config import Config
from cached.daemon.runtime.peer import Peer
from cached.errors import Forbidden

log = logging.getLogger("cached.people")

KNOWN_SECONDS = 60.0  # Lifetime of a cached answer.
PATIENCE = 5.0  # Seconds for a lookup; without an answer by then the user has no such right.
REMEMBERED = 4096  # Answers.
THREADS = 4

_Key = tuple[str, int, int]


class People:
    """Look up the rights of users, and cache them. Use from the event loop only. Root and the daemon's own user are
    never looked up."""

    def __init__(self, config: Config) -> None:
        self._admin_group, self._names = config.admin_group, tuple(config.own_credentials_for)
        self._threads = ThreadPoolExecutor(THREADS, "names")
        self._known: OrderedDict[_Key, tuple[bool, float]] = OrderedDict()
        self._asking: dict[_Key, asyncio.Future[bool]] = {}  # One lookup for all callers that wait for the same answer.

    async def administers(self, peer: Peer | None) -> bool:
        if peer is None or _ours(peer):
            return peer is not None
        return await self._look("administers", peer, lambda: in_group(peer, self._admin_group))

    async def require_admin(self, peer: Peer | None, verb: str) -> None:
        """Raise Forbidden unless the peer is root, the daemon's own user, or in the admin group."""
        if not await self.administers(peer):
            raise Forbidden(f"{verb} is for administrators: run it as root, or join the group {self._admin_group!r}.")

    async def served(self, peer: Peer | None) -> bool:
        """Return True if `own_credentials_for` covers the peer: by users, uids, `@groups` or `*` for everybody."""
        if "*" in self._names or peer is None:
            return "*" in self._names
        if _ours(peer) or str(peer.uid) in self._names:
            return True
        if all(name.isdecimal() for name in self._names):
            return False
        return await self._look("served", peer, lambda: _named(peer, self._names))

    async def _look(self, what: str, peer: Peer, look: Callable[[], bool]) -> bool:
        key = what, peer.uid, peer.gid
        answer, until = self._known.get(key, (False, 0.0))
        if time.monotonic() < until:
            return answer
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.get_running_loop().run_in_executor(self._threads, look)
            asking.add_done_callback(lambda done: self._heard(key, done))
        await asyncio.wait([asking], timeout=PATIENCE)
        if asking.done() and asking.exception() is None:
            return asking.result()
        log.warning("names.silent", extra={"uid": peer.uid})
        return False

    def _heard(self, key: _Key, done: asyncio.Future[bool]) -> None:
        del self._asking[key]
        if not done.cancelled() and done.exception() is None:
            self._known[key] = done.result(), time.monotonic() + KNOWN_SECONDS
            self._known.move_to_end(key)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)


def _ours(peer: Peer) -> bool:
    return peer.uid in (0, os.geteuid())


def _named(peer: Peer, names: tuple[str, ...]) -> bool:
    """Return True if `names` contains the peer's user or, as `@group`, one of its groups. Runs in a thread, as does
    `in_group`."""
    try:
        user = pwd.getpwuid(peer.uid).pw_name
    except KeyError:
        user = ""
    return user in names or any(in_group(peer, name[1:]) for name in names if name.startswith("@"))


def in_group(peer: Peer, group: str) -> bool:
    """Return True if `group` is the peer's primary group or one of its user's groups."""
    try:
        wanted = grp.getgrnam(group).gr_gid
        return wanted == peer.gid or wanted in os.getgrouplist(pwd.getpwuid(peer.uid).pw_name, peer.gid)
    except KeyError:
        return False
