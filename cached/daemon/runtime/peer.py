"""Who is at the other end of a socket, for everybody who asks on whose account something is done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of the socket, as the kernel says."""

    pid: int
    uid: int
    gid: int
