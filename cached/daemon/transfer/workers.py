"""What the daemon asks of its workers, whichever of them does it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cached.config import Config
from cached.daemon.access.callers import Caller
from cached.daemon.runtime.endings import seen
from cached.daemon.runtime.shares import Shares
from cached.daemon.runtime.threads import Threads
from cached.daemon.transfer.worker_pool import Crew, Member, lost
from cached.errors import CachedError, WorkerLost
from cached.model import Entry, Listing
from cached.model_ref import ModelRef
from cached.store.blobs.ingest import Piece, Verified
from cached.store.blobs.verify import Checkup
from cached.worker.messages import (
    PROOFS,
    RESOLVES,
    Asking,
    Came,
    Check,
    Close,
    Compare,
    Finish,
    Gather,
    Gathered,
    Granted,
    Inspect,
    Into,
    Open,
    Opened,
    Principal,
    Prove,
    Read,
    ReadWhole,
    Remote,
    Resolve,
    Shards,
    Wanting,
)

log = logging.getLogger("cached.workers")

MANY = 4  # More processes than this did not make a fill faster.
FAILED_SECONDS = 2.0  # Workers that cannot even start are not started again before that.
CLOSE_SECONDS = 5.0

Secure = Callable[[Mapping[str, int]], Awaitable[None]]  # Room.secure
Counting = Callable[[int, int], None]  # Bytes since the last call: what counts as done (may shrink), what came.


class Workers:
    """Use from the event loop only."""

    def __init__(self, config: Config, claims: Sequence[int], threads: Threads) -> None:
        """`claims` are the descriptors of the roots' locks."""
        self._config, self._claims, self._threads = config, claims, threads
        self._numbers = itertools.count(1)
        self._counting: dict[int, Counting] = {}
        self._rooms: dict[int, Secure] = {}
        self._crew: Crew | None = None
        self._changing = asyncio.Lock()
        self._failed_at = float("-inf")
        self._closed = False
        # No user keeps the others from being asked about; and proofs do not wait for listings.
        self._resolves, self._proofs = Shares(RESOLVES * processes(config)), Shares(PROOFS * processes(config))
        self._asking: set[asyncio.Task[Any]] = set()
        self.lost = 0  # How often they had to be replaced.

    @property
    def pids(self) -> list[int]:
        """Of those that are ready."""
        return [member.pid for member in self._crew.members if member.pid] if self._crew and self._crew.alive else []

    async def start(self) -> Crew:
        """The processes, started unless they run. WorkerLost when they cannot be."""
        async with self._changing:
            if self._closed:
                raise lost()
            crew = self._crew
            if crew is not None and not crew.alive:
                await asyncio.shield(crew.gone)  # Its ingests may be opened again only then.
                self._crew = None
                self.lost += 1
                if not crew.was_ready:
                    self._failed_at = time.monotonic()
            if self._crew is None:
                if time.monotonic() < self._failed_at + FAILED_SECONDS:
                    raise lost()
                self._crew = await Crew.start(
                    self._config, processes(self._config), self._claims, self._came, self._wanted, self._threads
                )
            return self._crew

    async def close(self) -> None:
        """End them, and wait until they are gone: the root is theirs too as long as one of them lives."""
        async with self._changing:
            self._closed = True
            if self._crew is not None:
                self._crew.end()
                await asyncio.wait([self._crew.gone], timeout=CLOSE_SECONDS)

    async def resolve(self, ref: ModelRef, caller: Caller, timeout: float, require: str | None = None) -> Listing:
        """Where one file stands for the whole place, these credentials have proved that they may read it; where rights
        are per file, they have proved nothing. Asked once more when the process dies of it, or beside it.
        ModelIncomplete unless it is fit for what is required."""
        question = Resolve(ref, caller.credentials, timeout, require)
        found: Listing = await self._in_turn(self._resolves, caller, question)
        return found

    async def inspect(self, ref: ModelRef, folder: Path) -> None:
        """ModelIncomplete unless an LLM engine could load what is in this snapshot's directory."""
        await self._ask_twice(Inspect(ref, folder))

    async def shards(self, ref: ModelRef, name: str, index: Path) -> tuple[str, ...]:
        """The shards that an index names and the caller wants. ModelIncomplete when it is none."""
        found: tuple[str, ...] = await self._ask_twice(Shards(ref, name, index))
        return found

    async def prove(self, listing: Listing, entries: Iterable[Entry], caller: Caller, timeout: float) -> None:
        """SourceDenied, SourceChanged or NotFound unless these credentials may read every one of these entries at the
        version that the listing names. `timeout` bounds each network call; the first refusal ends it."""
        if chosen := tuple(entries):
            await self._in_turn(self._proofs, caller, Prove(listing.part(chosen), caller.credentials, timeout))

    async def compare(
        self, listing: Listing, copies: Mapping[Path, Entry], caller: Caller, timeout: float, whole: bool = False
    ) -> None:
        """SourceDenied unless each of these files holds what the source gives these credentials for the entry, as far
        as ranges that nobody foresees can tell, or (`whole`) in every byte: else the listing claims what is not
        there."""
        if copies:
            part = listing.part(tuple(copies.values()))
            question = Compare(part, dict(copies), caller.credentials, timeout, whole)
            await self._in_turn(self._proofs, caller, question)

    async def principal(self, ref: ModelRef, caller: Caller, timeout: float) -> str | None:
        """For whom the source takes temporary keys (an account and its role). None where it does not say."""
        question = Principal(ref, caller.credentials, timeout)
        found: str | None = await self._in_turn(self._proofs, caller, question)
        return found

    async def check(self, asked: Check) -> Checkup:
        """Read a blob again. Asked once more when the process dies meanwhile."""
        found: Checkup = await self._ask_twice(asked)
        return found

    async def _in_turn(self, shares: Shares, caller: Caller, question: Asking) -> Any:
        """Ask a source when it is this user's turn. Who hangs up is gone at once; the turn lasts until the worker has
        ended with the question, or has died: else hanging up would be a way to keep all its threads busy."""

        async def ask() -> Any:
            async with shares.turn(caller.uid):
                return await self._ask_twice(question)

        asking = asyncio.create_task(ask())
        self._asking.add(asking)  # The loop itself holds tasks weakly.
        asking.add_done_callback(self._asking.discard)
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            asking.add_done_callback(seen)
            asking.cancel()
            raise

    async def _ask_twice(self, question: Asking | Check | Inspect | Shards) -> Any:
        try:
            crew, member = await self._idlest()
            return await crew.ask(member, question)
        except WorkerLost:
            crew, member = await self._idlest()
            return await crew.ask(member, question)

    async def gather(
        self, root: Path, wants: Mapping[str, Entry], remote: Remote, counting: Counting, room: Secure
    ) -> Gathered:
        """Fetch these small files by key. `room` is asked for before anything is written. WorkerLost when they have to
        be asked for again."""
        crew, member = await self._idlest()
        with self._counted(counting, room) as number:
            gathered: Gathered = await crew.ask(member, Gather(number, root, wants, remote.only(*wants.values())))
        return gathered

    @contextlib.asynccontextmanager
    async def transfer(
        self, into: Into, entry: Entry, remote: Remote, counting: Counting, room: Secure
    ) -> AsyncIterator[Transfer]:
        """A Transfer; parked when the block ends, unless it was finished or discarded. `room` is asked for before
        pieces are written."""
        crew, member = await self._idlest()
        with self._counted(counting, room) as number:
            transfer = Transfer(crew, member, number)
            member.files += 1
            try:
                await transfer.open(into, entry, remote)
                yield transfer
            finally:
                member.files -= 1
                await transfer.close()

    async def _idlest(self) -> tuple[Crew, Member]:
        crew = await self.start()
        return crew, min(crew.members, key=lambda member: member.load)

    @contextlib.contextmanager
    def _counted(self, counting: Counting, room: Secure) -> Iterator[int]:
        """The number under which bytes are counted there, and room is asked for."""
        number = next(self._numbers)
        self._counting[number], self._rooms[number] = counting, room
        try:
            yield number
        finally:
            del self._counting[number], self._rooms[number]

    async def _wanted(self, message: Wanting) -> Granted:
        """A worker has bytes, and waits to write them."""
        room = self._rooms.get(message.transfer)
        try:
            if room is None:
                raise lost()
            await room(message.steps)
        except CachedError as error:
            return Granted(message.number, error)
        except Exception:
            log.exception("room.bug")
            return Granted(message.number, CachedError("Room could not be made; see the daemon's log."))
        return Granted(message.number, None)

    def _came(self, message: Came) -> None:
        for transfer, (done, came) in message.counts.items():
            if counting := self._counting.get(transfer):
                counting(done, came)


class Transfer:
    """A large file that a worker has open. Every call may raise WorkerLost."""

    def __init__(self, crew: Crew, member: Member, number: int) -> None:
        self._crew, self._member, self._number = crew, member, number
        self.landed = 0  # Bytes that need not be fetched.
        self.missing: tuple[Piece, ...] = ()
        self.whole = False
        self.discard = False
        self._finished = False

    async def open(self, into: Into, entry: Entry, remote: Remote) -> None:
        opened: Opened = await self._crew.ask(self._member, Open(self._number, into, entry, remote.only(entry)))
        self.landed, self.missing, self.whole = opened.landed, opened.missing, opened.whole

    async def read(self, piece: Piece) -> None:
        await self._crew.ask(self._member, Read(self._number, piece))

    async def read_whole(self) -> None:
        await self._crew.ask(self._member, ReadWhole(self._number))

    async def finish(self) -> Verified:
        """Checked, durable and closed: what is left is to give it its name."""
        self._finished = True
        verified: Verified = await self._crew.ask(self._member, Finish(self._number))
        return verified

    async def close(self) -> None:
        """Also after an `open` that was cancelled: the worker has it open all the same."""
        if not self._finished and self._crew.alive:
            with contextlib.suppress(WorkerLost):
                await self._crew.ask(self._member, Close(self._number, self.discard))


def processes(config: Config) -> int:
    """How many: a bound on bandwidth is kept within one process."""
    if config.bandwidth:
        return 1
    return config.workers or max(1, min(MANY, len(os.sched_getaffinity(0))))
