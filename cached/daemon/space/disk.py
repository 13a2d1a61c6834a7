"""One root, and what works on it: its store, its threads, and whether it can still be written to."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from cached.daemon.runtime.threads import Threads
from cached.daemon.space.usage_log import Uses
from cached.errors import CachedError, StoreDegraded
from cached.model import Digest
from cached.store.disk import disk_errors
from cached.store.index.hits import Known
from cached.store.store import Store

log = logging.getLogger("cached.disk")

P = ParamSpec("P")
T = TypeVar("T")


class Disk:
    """`degraded` says why nothing is written here any more; hits go on. Only a restart, after the mend, ends that."""

    def __init__(self, store: Store, changed: Callable[[], None] = lambda: None) -> None:
        """`changed` is called when the disk degrades."""
        self.store = store
        self.root: Path = store.layout.root
        self.uses = Uses(store)
        self.degraded: str | None = None
        if store.frozen:
            self.degraded = f"The file system of {self.root} is read-only. Check the disk, then restart cached."
            log.error("disk.degraded", extra={"root": str(self.root), "why": self.degraded})
        self.unsound: set[Digest] = set()  # Snapshots found damaged when that could not be written down any more.
        self.abandoned: set[int] = set()  # Fills that have ended while the disk did not take a word of it.
        # Whom to tell that a blob or a snapshot, a name in it, may not be what it was; set by who checks that.
        self.suspect: Callable[[Digest, str, str], None] = lambda digest, name, what: None
        self._changed = changed
        self._leaving: set[asyncio.Future[None]] = set()  # Ends of those that were cancelled as they began.
        self._threads = Threads()  # Of its own: a disk that hangs keeps nobody else's work waiting.

    def __repr__(self) -> str:
        return f"<Disk {self.root}{' degraded' if self.degraded else ''}>"

    async def do(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run it in a thread. A failure of the disk itself degrades it."""
        try:
            with disk_errors(f"working on {self.root}"):  # What nobody nearer to it has translated.
                return await self._threads.disk(call, *args, **kwargs)
        except StoreDegraded as error:
            self.heard(error)
            raise

    def heard(self, error: BaseException) -> None:
        """Something failed here, or in a worker that wrote here."""
        if isinstance(error, StoreDegraded) and error.lasting and self.degraded is None:
            self.degraded = error.message
            log.error("disk.degraded", extra={"root": str(self.root), "why": error.message})
            self._changed()

    def query(self, sql: str, *parameters: object) -> list[sqlite3.Row]:
        """Rows of its index; none, when that cannot be read: the other disks are asked all the same. Synchronous."""
        try:
            return self.store.index.query(sql, parameters)
        except StoreDegraded as error:
            self.heard(error)
            return []

    def meanings(self, ref: str, whos: Sequence[str] | None) -> list[Known]:
        """What `Index.meanings` knows, unless that cannot be read."""
        try:
            return self.store.index.meanings(ref, whos)
        except StoreDegraded as error:
            self.heard(error)
            return []

    async def begin(self, begin: Callable[[], int | None]) -> int | None:
        """The fill that this begins; a caller that is cancelled meanwhile leaves none behind."""
        begun = asyncio.ensure_future(self.do(begin))
        try:
            return await asyncio.shield(begun)
        except asyncio.CancelledError:
            leaving = asyncio.ensure_future(self._unbegin(begun))
            self._leaving.add(leaving)  # It goes on though its caller be cancelled once more.
            leaving.add_done_callback(self._leaving.discard)
            await asyncio.shield(leaving)
            raise

    async def _unbegin(self, begun: asyncio.Future[int | None]) -> None:
        await asyncio.wait([begun])
        if begun.exception() is None and (fill := begun.result()) is not None:
            await self.abandon(fill)

    async def abandon(self, fill: int) -> None:
        """A fill has ended without a snapshot."""
        self.abandoned.add(fill)
        await self.forget_abandoned()

    async def forget_abandoned(self) -> None:
        """Free what such fills hold. A disk that does not even take that is asked again with the next flush."""
        while self.abandoned:
            fill = self.abandoned.pop()
            try:
                await self.do(self.store.abandon, fill)
            except CachedError as error:
                self.abandoned.add(fill)
                log.warning("fill.unwritten", extra={"root": str(self.root), "why": error.message})
                return

    def require_writable(self) -> None:
        """StoreDegraded, with the reason, when nothing may be written here."""
        if self.degraded is not None:
            raise StoreDegraded(self.degraded)
