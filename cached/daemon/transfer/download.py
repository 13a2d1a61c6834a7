"""What is on its way: downloads, and how far they are."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field

from cached.access import Credentials
from cached.model import Digest, Entry


@dataclass(eq=False, slots=True)
class Download:
    """One large blob on its way, or several small ones together, and how many wait. `done`, `fetched` in bytes.

    `credentials`: of whoever started it, for the files of `place`, and `group` is its model; others may join. `read`:
    keys of files of which every byte came from there, and none from another root or an earlier download.
    """

    wants: dict[str, Entry]
    origin: str
    place: str
    credentials: Credentials
    group: str = ""
    read: set[str] = field(default_factory=set)
    task: asyncio.Task[dict[str, Digest]] | None = None
    done: int = 0
    fetched: int = 0
    waiters: int = 0

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.wants.values())

    def serves(self, place: str, credentials: Credentials) -> bool:
        """Whether it reads what these credentials would read there."""
        return (self.place, self.credentials) == (place, credentials)


@dataclass(eq=False, slots=True)
class Batch:
    """The downloads of one fill: those under way, with the bytes of each that it wants, and what has ended.

    `uids`: of the fill's users; others may still join. None of them: the daemon itself.
    """

    uids: Collection[int] = ()
    running: dict[Download, int] = field(default_factory=dict)
    ended_bytes: int = 0
    ended_files: int = 0
    read: set[str] = field(default_factory=set)  # Keys of files that the fill's own credentials read, every byte.

    @property
    def done(self) -> int:
        """Bytes. Of a bundle that was begun for somebody else, no more than what is wanted of it."""
        return self.ended_bytes + sum(min(download.done, ours) for download, ours in self.running.items())
