"""One root and the parts that work on it: its store, its threads, and the reason why it can no longer be written to."""

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
    """One root that is in use. `degraded` is the reason why nothing is written here any more; hits continue. Only a
    restart, after the disk is repaired, ends that."""

    def __init__(self, store: Store, changed: Callable[[], None] = lambda: None) -> None:
        """Take the store of the root. `changed` is called when the disk degrades."""
        self.store = store
        self.root: Path = store.layout.root
        self.uses = Uses(store)
        self.degraded: str | None = None
        if store.frozen:
            self.degraded = f"The file system of {self.root} is read-only. Check the disk, then restart cached."
            log.error("disk.degraded", extra={"root": str(self.root), "why": self.degraded})
        self.unsound: set[Digest] = set()  # Snapshots found damaged when that could no longer be recorded.
        self.abandoned: set[int] = set()  # Fills that have ended, while the disk could not record it.
        # Called when a blob, or a name in a snapshot, may have changed; set by the component that checks it.
        self.suspect: Callable[[Digest, str, str], None] = lambda digest, name, what: None
        self._changed = changed
        self._leaving: set[asyncio.Future[None]] = set()  # Cleanups of fills that were cancelled as they began.
        self._threads = Threads()  # Of its own: a disk that hangs does not delay the work of others.

    def __repr__(self) -> str:
        return f"<Disk {self.root}{' degraded' if self.degraded else ''}>"

    async def do(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the call in a thread of this disk and return its result. A lasting failure of the disk itself degrades
        it."""
        try:
            with disk_errors(f"working on {self.root}"):  # For errors not translated closer to their cause.
                return await self._threads.disk(call, *args, **kwargs)
        except StoreDegraded as error:
            self.heard(error)
            raise

    def heard(self, error: BaseException) -> None:
        """Degrade the disk if the error, raised here or by a worker that wrote here, is a lasting failure of the
        disk."""
        if isinstance(error, StoreDegraded) and error.lasting and self.degraded is None:
            self.degraded = error.message
            log.error("disk.degraded", extra={"root": str(self.root), "why": error.message})
            self._changed()

    def query(self, sql: str, *parameters: object) -> list[sqlite3.Row]:
        """Return the rows of a query of its index. Return none if the index cannot be read, so that the other disks are
        still queried. Synchronous."""
        try:
            return self.store.index.query(sql, parameters)
        except StoreDegraded as error:
            self.heard(error)
            return []

    def meanings(self, ref: str, whos: Sequence[str] | None) -> list[Known]:
        """Return the result of `Index.meanings`; empty if the index cannot be read."""
        try:
            return self.store.index.meanings(ref, whos)
        except StoreDegraded as error:
            self.heard(error)
            return []

    async def begin(self, begin: Callable[[], int | None]) -> int | None:
        """Run `begin` and return the id of the fill that it begins, if any. A caller that is cancelled meanwhile leaves
        no fill behind."""
        begun = asyncio.ensure_future(self.do(begin))
        try:
            return await asyncio.shield(begun)
        except asyncio.CancelledError:
            leaving = asyncio.ensure_future(self._unbegin(begun))
            self._leaving.add(leaving)  # It continues if its caller is cancelled again.
            leaving.add_done_callback(self._leaving.discard)
            await asyncio.shield(leaving)
            raise

    async def _unbegin(self, begun: asyncio.Future[int | None]) -> None:
        await asyncio.wait([begun])
        if begun.exception() is None and (fill := begun.result()) is not None:
            await self.abandon(fill)

    async def abandon(self, fill: int) -> None:
        """Release the claims of a fill that has ended without a snapshot."""
        self.abandoned.add(fill)
        await self.forget_abandoned()

    async def forget_abandoned(self) -> None:
        """Release the claims of fills that have ended without a snapshot. If the disk cannot record that, the next
        flush tries again."""
        while self.abandoned:
            fill = self.abandoned.pop()
            try:
                await self.do(self.store.abandon, fill)
            except CachedError as error:
                self.abandoned.add(fill)
                log.warning("fill.unwritten", extra={"root": str(self.root), "why": error.message})
                return

    def require_writable(self) -> None:
        """Raise StoreDegraded, with the reason, when nothing may be written here."""
        if self.degraded is not None:
            raise StoreDegraded(self.degraded)
