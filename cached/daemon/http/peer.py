"""Who is calling, by the kernel's word (SO_PEERCRED)."""

from __future__ import annotations

import socket
import struct

from aiohttp import web

from cached.daemon.runtime.peer import Peer

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
