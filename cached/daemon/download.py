"""What is on its way: a model's remote, its downloads, and how far they are."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from cached.model import Credentials, Digest, Entry, Listing
from cached.sources.base import Source


@dataclass(eq=False, slots=True)
class Download:
    """One large blob on its way, or several small ones together, and how many wait. `done`, `fetched` in bytes."""

    wants: dict[str, Entry]
    origin: str
    task: asyncio.Task[dict[str, Digest]] | None = None
    done: int = 0
    fetched: int = 0
    waiters: int = 0

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.wants.values())


@dataclass(frozen=True, slots=True)
class Remote:
    """Where a model's files come from."""

    source: Source
    listing: Listing
    credentials: Credentials

    @property
    def origin(self) -> str:
        """Scheme and host: what shares a pace."""
        return "/".join(self.listing.place.split("/", 3)[:3])

    @property
    def group(self) -> str:
        return f"{self.listing.place}@{self.listing.revision}"


@dataclass(eq=False, slots=True)
class Batch:
    """The downloads of one fill: those under way, and what has ended."""

    running: set[Download] = field(default_factory=set)
    ended_bytes: int = 0
    ended_files: int = 0

    @property
    def done(self) -> int:
        return self.ended_bytes + sum(download.done for download in self.running)
