"""The peer of a connection, as the kernel reports it (SO_PEERCRED)."""

from __future__ import annotations

import socket
import struct

from aiohttp import web

from cached.daemon.runtime.peer import Peer

_UCRED = struct.Struct("3i")


def peer_of(request: web.Request) -> Peer | None:
    """Return the process at the other end of the request's unix socket; None over TCP."""
    connection = request.transport.get_extra_info("socket") if request.transport else None
    return None if connection is None else peer_at(connection)


def peer_at(connection: socket.socket) -> Peer | None:
    """Return the process at the other end of a unix socket; None for another kind of socket."""
    if connection.family != socket.AF_UNIX:
        return None
    return Peer(*_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))
