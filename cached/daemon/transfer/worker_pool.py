"""Worker processes that were started together: they receive requests over sockets, and end together when one of them
dies."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import pickle
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from cached.config import Config
from cached.daemon.runtime.endings import seen
from cached.daemon.runtime.threads import Threads
from cached.errors import WorkerLost
from cached.worker.messages import (
    HEADER,
    Asking,
    Came,
    Cancel,
    Check,
    Granted,
    Hello,
    Inspect,
    Question,
    Reply,
    Request,
    Shards,
    Started,
    Wanting,
    frame,
)

log = logging.getLogger("cached.workers")

# The modules that the daemon itself imports, by the same PYTHONPATH; none from the working directory (-P).
COMMAND = (sys.executable, "-P", "-m", "cached.worker")
LARGE = 64 << 10  # Bytes of a message that is unpickled in a thread, so that no hit waits for a long listing.
DEAD_SECONDS = 30.0  # The longest wait for a process that does not end, because its disk hangs.

_numbers = itertools.count(1)


class Member:
    """One worker process and its pending requests."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.pid: int | None = None  # Once it is ready.
        self.pending: dict[int, asyncio.Future[Any]] = {}
        self.files = 0  # Large files that it has open; each brings many more requests.

    @property
    def load(self) -> int:
        return len(self.pending) + self.files


class Crew:
    """Worker processes with one fate. `gone` ends when no member is left and every waiting caller has its error."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        members: list[Member],
        came: Callable[[Came], None],
        wanted: Callable[[Wanting], Awaitable[Granted]],
        threads: Threads,
    ) -> None:
        self.members = members
        self.alive = True
        self.was_ready = False
        self._ending = False
        self._process, self._came, self._wanted, self._threads = process, came, wanted, threads
        self._answering: set[asyncio.Task[None]] = set()
        listening = [asyncio.create_task(self._listen(member)) for member in members]
        self.gone = asyncio.create_task(self._watch(listening))

    @classmethod
    async def start(
        cls,
        config: Config,
        count: int,
        claims: Sequence[int],
        came: Callable[[Came], None],
        wanted: Callable[[Wanting], Awaitable[Granted]],
        threads: Threads,
    ) -> Crew:
        """Start `count` workers. Raises WorkerLost when the system has no process, descriptor or thread left for them.

        The workers keep `claims`, the locked files of the roots, so that no other daemon opens a root before the last
        of them is gone. They import modules in the background; requests wait for that.
        """
        pairs: list[tuple[socket.socket, socket.socket]] = []
        try:
            pairs += [socket.socketpair() for _ in range(count)]
            theirs = [end.fileno() for _, end in pairs]
            command = [*COMMAND, str(os.getpid()), *map(str, theirs)]
            null = asyncio.subprocess.DEVNULL
            # From this thread, which lives as long as the process: workers die with the thread that started them.
            process = await asyncio.create_subprocess_exec(
                *command, pass_fds=[*theirs, *claims], stdin=null, stdout=null
            )
            members = [Member(*await asyncio.open_connection(sock=ours)) for ours, _ in pairs]
        except (OSError, RuntimeError) as error:
            for ours, _ in pairs:
                ours.close()
            raise WorkerLost(
                f"The processes that fetch models cannot be started ({error}); check the node's limits."
            ) from error
        finally:
            for _, end in pairs:
                end.close()
        members[0].writer.write(frame(Hello.of(config)))
        log.info("workers.started", extra={"pid": process.pid, "processes": count})
        return cls(process, members, came, wanted, threads)

    async def ask(self, member: Member, question: Question) -> Any:
        """Send a request to the member, and return its answer or raise its error. WorkerLost when the crew has ended.

        A cancelled caller returns only when the worker has finished with the request, which it gives up if it waits for
        a source; at once where the request only reads the node's own disk.
        """
        if not self.alive:
            await asyncio.shield(self.gone)
            raise lost()
        number = next(_numbers)
        future = member.pending[number] = asyncio.get_running_loop().create_future()
        member.writer.write(frame(Request(number, question)))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(seen)
            if isinstance(question, Asking) and self.alive:
                member.writer.write(frame(Cancel(number)))
            if not isinstance(question, Check | Inspect | Shards):
                await asyncio.wait([future])
            raise

    def end(self) -> None:
        """Kill the workers. Ingests stay as they are, with all bytes that have landed."""
        self._ending = True
        self._kill()

    def _kill(self) -> None:
        """Kill every member by its pid too: if the kernel does not end the others with the first, they must end all the
        same."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        for member in self.members:
            if member.pid is not None and member.pid != self._process.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(member.pid, signal.SIGKILL)

    async def _listen(self, member: Member) -> None:
        """Read messages until the worker closes its end, which it does by dying, or until a message cannot be read."""
        try:
            while True:
                (length,) = HEADER.unpack(await member.reader.readexactly(HEADER.size))
                data = await member.reader.readexactly(length)
                message = pickle.loads(data) if length < LARGE else await self._threads.disk(pickle.loads, data)
                self._hear(member, message)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except Exception:
            log.exception("worker.not_understood")

    def _hear(self, member: Member, message: Started | Came | Wanting | Reply) -> None:
        if isinstance(message, Started):
            member.pid = message.pid
            self.was_ready = True
        elif isinstance(message, Came):
            self._came(message)
        elif isinstance(message, Wanting):
            task = asyncio.create_task(self._answer(member, message))
            self._answering.add(task)  # The loop itself holds tasks weakly.
            task.add_done_callback(self._answering.discard)
        else:
            future = member.pending.pop(message.number)
            if message.error is not None:
                future.set_exception(message.error)
            else:
                future.set_result(message.value)

    async def _answer(self, member: Member, message: Wanting) -> None:
        granted = await self._wanted(message)
        if self.alive:
            member.writer.write(frame(granted))

    async def _watch(self, listening: list[asyncio.Task[None]]) -> None:
        """When one member has died, end the others; fail the pending requests only when no member can write."""
        await asyncio.wait(listening, return_when=asyncio.FIRST_COMPLETED)
        self.alive = False
        self._kill()
        if not self._ending:
            log.error("workers.lost", extra={"asked": sum(len(member.pending) for member in self.members)})
        _, left = await asyncio.wait(listening, timeout=DEAD_SECONDS)
        if left:
            log.error("workers.undead", extra={"processes": len(left)})
        for task in left:
            task.cancel()
        for member in self.members:
            member.writer.close()
            for future in member.pending.values():
                future.set_exception(lost())
            member.pending.clear()


def lost() -> WorkerLost:
    return WorkerLost("The process that fetches models ended unexpectedly; see the daemon's log, and try again.")
