"""Who is calling, by the kernel's word (SO_PEERCRED), and whether that is an administrator."""

from __future__ import annotations

import socket
import struct

from aiohttp import web

from cached.daemon import callers
from cached.daemon.space.usage import Peer
from cached.errors import Forbidden

_UCRED = struct.Struct("3i")


def peer_of(request: web.Request) -> Peer | None:
    """The process at the other end of a unix socket; None over TCP."""
    connection = request.transport.get_extra_info("socket") if request.transport else None
    return None if connection is None else peer_at(connection)


def peer_at(connection: socket.socket) -> Peer | None:
    """The same of a socket."""
    if connection.family != socket.AF_UNIX:
        return None
    return Peer(*_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def require_admin(peer: Peer | None, admin_group: str, verb: str) -> None:
    """Forbidden unless the caller is root, the daemon's own user, or in the admin group."""
    if administers(peer, admin_group):
        return
    raise Forbidden(f"{verb} is for administrators: run it as root, or join the group {admin_group!r}.")


def administers(peer: Peer | None, admin_group: str) -> bool:
    return peer is not None and callers.administers(peer, admin_group)
