"""Downloads in progress, and their progress."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field

from cached.access import Credentials
from cached.model import Digest, Entry


@dataclass(eq=False, slots=True)
class Download:
    """The download of one large blob, or of several small ones together. `waiters` counts the fills that wait for it;
    `done` and `fetched` are in bytes.

    `credentials` are those of the fill that started it, for the files of `place`; `group` is its model; others may
    join. `read`: keys of the files of which every byte came from that place, none from another root or an earlier
    download.
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
        """Return True if it reads the bytes that these credentials would read at `place`."""
        return (self.place, self.credentials) == (place, credentials)


@dataclass(eq=False, slots=True)
class Batch:
    """The downloads of one fill: those in progress, with the number of bytes that it wants of each, and totals of those
    that have ended.

    `uids` are the fill's users; others may still join. Empty means the daemon itself.
    """

    uids: Collection[int] = ()
    running: dict[Download, int] = field(default_factory=dict)
    ended_bytes: int = 0
    ended_files: int = 0
    read: set[str] = field(default_factory=set)  # Keys of files that the fill's own credentials read, every byte.

    @property
    def done(self) -> int:
        """Return the bytes done. A bundle started for another fill counts at most the bytes that are wanted of it."""
        return self.ended_bytes + sum(min(download.done, ours) for download, ours in self.running.items())
