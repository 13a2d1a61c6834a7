"""The process at the other end of a socket, for all code that acts on a user's account."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a socket, as the kernel reports it."""

    pid: int
    uid: int
    gid: int
