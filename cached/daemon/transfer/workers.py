"""The daemon's requests to its workers, each sent to the least busy one."""

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
FAILED_SECONDS = 2.0  # Pause before starting workers again that could not even start.
CLOSE_SECONDS = 5.0

Secure = Callable[[Mapping[str, int]], Awaitable[None]]  # Room.secure
Counting = Callable[[int, int], None]  # Bytes since the last call: done (may shrink), and received.


class Workers:
    """Send requests to worker processes, and start them as needed. Use from the event loop only."""

    def __init__(self, config: Config, claims: Sequence[int], threads: Threads) -> None:
        """Take the descriptors of the roots' locks as `claims`; workers inherit them."""
        self._config, self._claims, self._threads = config, claims, threads
        self._numbers = itertools.count(1)
        self._counting: dict[int, Counting] = {}
        self._rooms: dict[int, Secure] = {}
        self._crew: Crew | None = None
        self._changing = asyncio.Lock()
        self._failed_at = float("-inf")
        self._closed = False
        # No user blocks the requests of others, and proofs do not wait for listings.
        self._resolves, self._proofs = Shares(RESOLVES * processes(config)), Shares(PROOFS * processes(config))
        self._asking: set[asyncio.Task[Any]] = set()
        self.lost = 0  # The number of times they had to be replaced.

    @property
    def pids(self) -> list[int]:
        """Return the pids of the workers that are ready."""
        return [member.pid for member in self._crew.members if member.pid] if self._crew and self._crew.alive else []

    async def start(self) -> Crew:
        """Return the workers, started unless they run. Raises WorkerLost when they cannot be started."""
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
        """End the workers and wait up to CLOSE_SECONDS until they are gone: the root is theirs too as long as one of
        them lives."""
        async with self._changing:
            self._closed = True
            if self._crew is not None:
                self._crew.end()
                await asyncio.wait([self._crew.gone], timeout=CLOSE_SECONDS)

    async def resolve(self, ref: ModelRef, caller: Caller, timeout: float, require: str | None = None) -> Listing:
        """Return the listing of `ref` as the source answers these credentials. `timeout` in seconds.

        Where one file opens the whole place, that also proves that the credentials may read it; where rights are per
        file, it proves nothing. Tried once more if the process dies meanwhile. Raises ModelIncomplete unless the
        listing meets `require`.
        """
        question = Resolve(ref, caller.credentials, timeout, require)
        found: Listing = await self._in_turn(self._resolves, caller, question)
        return found

    async def inspect(self, ref: ModelRef, folder: Path) -> None:
        """Raise ModelIncomplete unless an LLM engine could load the snapshot in `folder`."""
        await self._ask_twice(Inspect(ref, folder))

    async def shards(self, ref: ModelRef, name: str, index: Path) -> tuple[str, ...]:
        """Return the shards that an index file names and the ref selects. Raises ModelIncomplete when the file is no
        index."""
        found: tuple[str, ...] = await self._ask_twice(Shards(ref, name, index))
        return found

    async def prove(self, listing: Listing, entries: Iterable[Entry], caller: Caller, timeout: float) -> None:
        """Raise SourceDenied, SourceChanged or NotFound unless these credentials may read every one of these entries at
        the version that the listing names. `timeout` bounds each network call, in seconds; the first refusal ends it.
        """
        if chosen := tuple(entries):
            await self._in_turn(self._proofs, caller, Prove(listing.part(chosen), caller.credentials, timeout))

    async def compare(
        self, listing: Listing, copies: Mapping[Path, Entry], caller: Caller, timeout: float, whole: bool = False
    ) -> None:
        """Raise SourceDenied unless each of these files has the bytes that the source gives these credentials for the
        entry. Unpredictable ranges are compared, or with `whole` every byte; a difference means that the listing claims
        bytes that are not there."""
        if copies:
            part = listing.part(tuple(copies.values()))
            question = Compare(part, dict(copies), caller.credentials, timeout, whole)
            await self._in_turn(self._proofs, caller, question)

    async def principal(self, ref: ModelRef, caller: Caller, timeout: float) -> str | None:
        """Return the owner that the source names for temporary keys (an account and its role); None where it names
        none."""
        question = Principal(ref, caller.credentials, timeout)
        found: str | None = await self._in_turn(self._proofs, caller, question)
        return found

    async def check(self, asked: Check) -> Checkup:
        """Read a blob again, and return the findings. Tried once more when the process dies meanwhile."""
        found: Checkup = await self._ask_twice(asked)
        return found

    async def _in_turn(self, shares: Shares, caller: Caller, question: Asking) -> Any:
        """Send a request to a source when it is this user's turn. A caller that is cancelled returns at once; its turn
        lasts until the worker has finished with the request or has died, or else cancelling would be a way to keep all
        its threads busy."""

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
        """Fetch these small files, by key. `room` is called before anything is written. Raises WorkerLost when they
        have to be requested again."""
        crew, member = await self._idlest()
        with self._counted(counting, room) as number:
            gathered: Gathered = await crew.ask(member, Gather(number, root, wants, remote.only(*wants.values())))
        return gathered

    @contextlib.asynccontextmanager
    async def transfer(
        self, into: Into, entry: Entry, remote: Remote, counting: Counting, room: Secure
    ) -> AsyncIterator[Transfer]:
        """Open a large file on a worker, as a Transfer. It is parked at the end of the block, unless it was finished or
        discarded. `room` is called before pieces are written."""
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
        """Allocate a number under which a worker reports bytes and requests room, for the length of the block."""
        number = next(self._numbers)
        self._counting[number], self._rooms[number] = counting, room
        try:
            yield number
        finally:
            del self._counting[number], self._rooms[number]

    async def _wanted(self, message: Wanting) -> Granted:
        """Answer a worker that has bytes and waits for room to write them."""
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
    """A large file that a worker has open. Every method may raise WorkerLost."""

    def __init__(self, crew: Crew, member: Member, number: int) -> None:
        self._crew, self._member, self._number = crew, member, number
        self.landed = 0  # Bytes that have landed and need not be fetched.
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
        """Have the file checked, synced and closed, and return it. Only its publication remains."""
        self._finished = True
        verified: Verified = await self._crew.ask(self._member, Finish(self._number))
        return verified

    async def close(self) -> None:
        """Close the file, even after an `open` that was cancelled: the worker has it open all the same."""
        if not self._finished and self._crew.alive:
            with contextlib.suppress(WorkerLost):
                await self._crew.ask(self._member, Close(self._number, self.discard))


def processes(config: Config) -> int:
    """Return the number of worker processes; 1 with a bandwidth limit, which is kept within one process."""
    if config.bandwidth:
        return 1
    return config.workers or max(1, min(MANY, len(os.sched_getaffinity(0))))
