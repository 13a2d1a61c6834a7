"""The daemon's end of its workers: started together, asked over sockets, replaced together when one dies."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import pickle
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from cached.config import Config
from cached.errors import WorkerLost
from cached.model import Credentials, Entry, Listing, ModelRef
from cached.store.ingest import Piece, Verified
from cached.worker.messages import (
    HEADER,
    Came,
    Close,
    Finish,
    Gather,
    Gathered,
    Hello,
    Open,
    Opened,
    Question,
    Read,
    ReadWhole,
    Ready,
    Remote,
    Reply,
    Request,
    Resolve,
    frame,
)

log = logging.getLogger("cached.workers")

# What the daemon itself imports, by the same PYTHONPATH if it has one; and nothing from the working directory (-P).
COMMAND = (sys.executable, "-P", "-m", "cached.worker")
MANY = 4  # More processes than this did not make a fill faster.

Counting = Callable[[int, int], None]  # Bytes since the last call: what counts as done (may shrink), what came.


class _Worker:
    """One process and what it was asked."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.pending: dict[int, asyncio.Future[Any]] = {}
        self.pid: int | None = None  # Once it is ready.
        self.files = 0  # Large files that it has open; each will be asked for again and again.

    @property
    def load(self) -> int:
        return len(self.pending) + self.files


class Workers:
    """Use from the event loop only."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._numbers = itertools.count(1)
        self._counting: dict[int, Counting] = {}
        self._crew: list[_Worker] = []
        self._process: asyncio.subprocess.Process | None = None
        self._listening: list[asyncio.Task[None]] = []
        self._changing = asyncio.Lock()
        self.lost = 0  # How often they had to be replaced.

    @property
    def pids(self) -> list[int]:
        """Of those that are ready."""
        return [worker.pid for worker in self._crew if worker.pid is not None]

    async def start(self) -> None:
        """Start the processes unless they run. They import what they need meanwhile; questions wait for that."""
        async with self._changing:
            if not self._crew:
                await self._start()

    async def _start(self) -> None:
        pairs = [socket.socketpair() for _ in range(processes(self._config))]
        try:
            theirs = [theirs.fileno() for _, theirs in pairs]
            command = [*COMMAND, str(os.getpid()), *map(str, theirs)]
            # From this thread, which lives as long as the process: workers die with the thread that started them.
            null = asyncio.subprocess.DEVNULL
            self._process = await asyncio.create_subprocess_exec(*command, pass_fds=theirs, stdin=null, stdout=null)
        except OSError as error:
            for ours, _ in pairs:
                ours.close()
            raise WorkerLost(
                f"The processes that fetch models cannot be started: {error.strerror}; check the node's limits."
            ) from error
        finally:
            for _, end in pairs:
                end.close()
        self._crew = [_Worker(*await asyncio.open_connection(sock=ours)) for ours, _ in pairs]
        self._crew[0].writer.write(frame(Hello.of(self._config)))
        self._listening = [asyncio.create_task(self._listen(worker)) for worker in self._crew]
        log.info("workers.started", extra={"pid": self._process.pid, "processes": len(self._crew)})

    def kill(self) -> None:
        """End them now. Ingests stay as they are, with all that has landed."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()  # Not waited for: it may hang in the disk; its sockets say when it is gone.

    async def resolve(self, ref: ModelRef, credentials: Credentials, timeout: float) -> Listing:
        """Asked once more when the process dies of it, or beside it."""
        question = Resolve(ref, credentials, timeout)
        try:
            found: Listing = await self.ask(await self._idlest(), question)
        except WorkerLost:
            found = await self.ask(await self._idlest(), question)
        return found

    async def gather(self, wants: Mapping[str, Entry], remote: Remote, counting: Counting) -> Gathered:
        """Fetch these small files by key. WorkerLost when they have to be asked for again."""
        number = next(self._numbers)
        self._counting[number] = counting
        try:
            gathered: Gathered = await self.ask(
                await self._idlest(), Gather(number, wants, remote.only(*wants.values()))
            )
        finally:
            del self._counting[number]
        return gathered

    @contextlib.asynccontextmanager
    async def transfer(self, key: str, entry: Entry, remote: Remote, counting: Counting) -> AsyncIterator[Transfer]:
        """A Transfer; parked when the block ends, unless it was finished or discarded."""
        worker, number = await self._idlest(), next(self._numbers)
        self._counting[number] = counting
        worker.files += 1
        try:
            opened: Opened = await self.ask(worker, Open(number, key, entry, remote.only(entry)))
            transfer = Transfer(self, worker, number, opened)
            try:
                yield transfer
            finally:
                if not transfer.ended:
                    with contextlib.suppress(WorkerLost):
                        await self.ask(worker, Close(number, transfer.discard))
        finally:
            worker.files -= 1
            del self._counting[number]

    async def ask(self, worker: _Worker, question: Question) -> Any:
        """Its answer, or its error.

        A cancelled caller comes back only when the worker is done with the question, unless that touches no file.
        """
        if worker not in self._crew:
            raise _lost()
        number = next(self._numbers)
        future = worker.pending[number] = asyncio.get_running_loop().create_future()
        worker.writer.write(frame(Request(number, question)))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(lambda late: late.exception())  # Seen, though nobody waits for it.
            if not isinstance(question, Resolve):
                await asyncio.wait([future])
            raise

    async def _idlest(self) -> _Worker:
        await self.start()
        return min(self._crew, key=lambda worker: worker.load)

    async def _listen(self, worker: _Worker) -> None:
        try:
            while True:
                (length,) = HEADER.unpack(await worker.reader.readexactly(HEADER.size))
                self._hear(worker, pickle.loads(await worker.reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        worker.writer.close()
        await self._replace(worker)

    def _hear(self, worker: _Worker, message: Ready | Came | Reply) -> None:
        if isinstance(message, Ready):
            worker.pid = message.pid
            return
        if isinstance(message, Came):
            for transfer, (done, came) in message.counts.items():
                if counting := self._counting.get(transfer):
                    counting(done, came)
            return
        future = worker.pending.pop(message.number)
        if message.error is not None:
            future.set_exception(message.error)
        else:
            future.set_result(message.value)

    async def _replace(self, worker: _Worker) -> None:
        """One has died: end the others too, and only when nobody writes any more say so to those who wait."""
        if worker not in self._crew:
            return
        crew, self._crew = self._crew, []
        self.lost += 1
        self.kill()
        log.error("workers.lost", extra={"asked": sum(len(each.pending) for each in crew)})
        async with self._changing:
            others = [task for task in self._listening if task is not asyncio.current_task()]
            await asyncio.gather(*others)
        for each in crew:
            for future in each.pending.values():
                future.set_exception(_lost())
            each.pending.clear()


class Transfer:
    """A large file that a worker has open."""

    def __init__(self, workers: Workers, worker: _Worker, number: int, opened: Opened) -> None:
        self._workers, self._worker, self._number = workers, worker, number
        self.landed, self.missing, self.whole = opened.landed, opened.missing, opened.whole
        self.discard = False
        self.ended = False

    async def read(self, piece: Piece) -> None:
        await self._workers.ask(self._worker, Read(self._number, piece))

    async def read_whole(self) -> None:
        await self._workers.ask(self._worker, ReadWhole(self._number))

    async def finish(self) -> Verified:
        self.ended = True
        verified: Verified = await self._workers.ask(self._worker, Finish(self._number))
        return verified


def processes(config: Config) -> int:
    """How many: a bound on bandwidth is kept within one process."""
    if config.bandwidth:
        return 1
    return config.workers or max(1, min(MANY, len(os.sched_getaffinity(0))))


def _lost() -> WorkerLost:
    return WorkerLost("The process that fetches models ended unexpectedly; see the daemon's log, and try again.")
