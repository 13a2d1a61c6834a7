"""The worker process: it receives requests, answers each in a thread, and ends with the daemon.

`python -P -m cached.worker PARENT FD…` becomes as many processes as it is given sockets, forked once everything is
imported, so that they share that memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, assert_never

from cached.access import Credentials
from cached.budget import Budget
from cached.config import Config
from cached.errors import CachedError
from cached.logs import configure
from cached.model import Listing
from cached.model_ref import ModelRef
from cached.sources.registry import Registry
from cached.sources.transport import idle
from cached.store.blobs.blobs import Blobs
from cached.store.layout import Layout
from cached.undumpable import leave_no_core
from cached.worker.ahead import RoomRequests
from cached.worker.byte_counts import Bandwidth, Tally
from cached.worker.channel import Channel
from cached.worker.check import run_check
from cached.worker.large_file import LargeFile
from cached.worker.messages import (
    PROOFS,
    RESOLVES,
    Asking,
    Cancel,
    Check,
    Close,
    Compare,
    Finish,
    Gather,
    Granted,
    Hello,
    Inspect,
    Open,
    Opened,
    Principal,
    Prove,
    Question,
    Read,
    ReadWhole,
    Reply,
    Request,
    Resolve,
    Shards,
    Started,
)
from cached.worker.policy import applied, inspect
from cached.worker.proving import Askers, compare, prove
from cached.worker.shards import shards_of
from cached.worker.small_files import SmallFiles

log = logging.getLogger("cached.worker")

NICE = 10
OOM_SCORE = 500
SWEPT_EVERY = 1.0  # Seconds between two sweeps for idle connections.
TOLD_EVERY = 0.1  # Seconds between two reports of received bytes.
HELPERS = 32  # Threads that help requests with many files to prove.
CHECKS = 2  # Threads for checks that a caller waits for, which read a disk for minutes.
LOOKS = 2  # Threads that go through a snapshot's names.
SCRUBS = 4  # Threads for checks that no caller waits for: each root has one under way.
PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> int:
    parent, *fds = map(int, arguments)
    # Only the end of the daemon ends a worker, and the daemon parks its transfers first.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _die_with(parent)
    # Below the daemon, whose hits it must not delay, and replicas that are loading. Linux lets any process be nicer.
    os.setpriority(os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))
    with contextlib.suppress(OSError):  # When memory runs out: written bytes are kept, and the daemon goes on.
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    leave_no_core()
    first = Channel(fds[0])
    hello = first.receive()
    if not isinstance(hello, Hello):
        return 1
    config = hello.config
    configure(config.log_level)
    registry = Registry(config)
    registry.preload()
    gc.collect()
    gc.freeze()  # Otherwise the first collection in each process would copy the pages that they share.
    channel = _forked(first, fds[1:])
    try:
        Worker(config, registry, channel).run()
    except Exception:
        log.exception("worker.bug")
    finally:
        os._exit(0)  # Reads that hang in the network would keep the interpreter alive until their time-out.


def _forked(first: Channel, others: Sequence[int]) -> Channel:
    """Fork one process for each of the other sockets, and return the channel of the process that returns."""
    here = os.getpid()
    for number, fd in enumerate(others):
        if os.fork() == 0:
            _die_with(here)
            first.close()
            for later in others[number + 1 :]:
                os.close(later)
            return Channel(fd)
        os.close(fd)
    return first


def _die_with(parent: int) -> None:
    """End this worker with the daemon, however that ends: the next one must find no process writing to its ingests."""
    failed = ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if failed or os.getppid() != parent:
        os._exit(1)


def sweep(end: threading.Event) -> None:
    """Close idle connections that have expired, even if no request uses them again, until `end` is set."""
    while not end.wait(SWEPT_EVERY):
        try:
            idle.sweep()
        except Exception:
            log.exception("worker.unswept")


class Worker:
    def __init__(self, config: Config, registry: Registry, channel: Channel) -> None:
        self._config, self._registry, self._channel = config, registry, channel
        self._blobs = {root: Blobs(Layout(root)) for root in config.all_roots}
        self._bandwidth = Bandwidth(int(config.bandwidth))
        self._tally = Tally()
        self._telling = threading.Lock()
        self._room = RoomRequests(channel)
        self._files: dict[int, LargeFile] = {}
        self._budgets: dict[int, Budget] = {}  # The budgets of requests to sources, by number.
        # Threads of their own: a remote that hangs must not keep pieces from being read.
        self._resolving = ThreadPoolExecutor(RESOLVES, "resolve")
        self._proving = ThreadPoolExecutor(PROOFS, "prove")
        self._askers = Askers(HELPERS)
        # Reads, and the opening and finishing of other files meanwhile.
        self._reading = ThreadPoolExecutor(2 * config.connections + 4, "read")
        self._checking = ThreadPoolExecutor(CHECKS, "check")
        self._looking = ThreadPoolExecutor(LOOKS, "look")
        self._scrubbing = ThreadPoolExecutor(max(SCRUBS, len(config.all_roots)), "scrub")

    def run(self) -> None:
        """Serve requests until the daemon is gone."""
        self._channel.send(Started(os.getpid()))
        threading.Thread(target=self._tell, daemon=True).start()
        threading.Thread(target=sweep, args=(threading.Event(),), daemon=True).start()
        while (heard := self._channel.receive()) is not None:
            if isinstance(heard, Granted):
                self._room.hear(heard)
            elif isinstance(heard, Cancel):
                if budget := self._budgets.get(heard.number):
                    budget.cancel()
            else:
                self._take_up(heard)

    def _take_up(self, request: Request) -> None:
        if isinstance(request.question, Resolve):
            self._budgets[request.number] = Budget(self._config.max_files, float(self._config.listing_timeout))
        elif isinstance(request.question, Asking):
            self._budgets[request.number] = Budget.unbounded()
        self._pool(request.question).submit(self._serve, request)

    def _pool(self, question: Question) -> ThreadPoolExecutor:
        if isinstance(question, Resolve):
            return self._resolving
        if isinstance(question, Asking):
            return self._proving
        if isinstance(question, Check):
            return self._scrubbing if question.rate else self._checking
        if isinstance(question, Inspect | Shards):
            return self._looking
        return self._reading

    def _tell(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(TOLD_EVERY)
            with self._telling:
                if news := self._tally.news():
                    self._channel.send(news)

    def _serve(self, request: Request) -> None:
        reply = Reply(request.number, None, None)
        try:
            with self._charged(request.number):
                reply = Reply(request.number, self._answer(request.question), None)
        except CachedError as error:
            error.__traceback__ = error.__cause__ = error.__context__ = None
            reply = Reply(request.number, None, error)
        except Exception:
            log.exception("worker.bug")
            failure = CachedError("A transfer failed in a way nobody foresaw; see the daemon's log.")
            reply = Reply(request.number, None, failure)
        try:
            with self._telling:
                news = self._tally.news()  # Before the reply: the end is never reported before the bytes.
                self._channel.send(*([news, reply] if news else [reply]))
        except OSError:
            pass  # The daemon is gone, and this process ends with it.
        except Exception:
            log.exception("worker.speechless")
            os._exit(1)  # Better a new worker than a daemon that waits for an answer for ever.

    @contextlib.contextmanager
    def _charged(self, number: int) -> Iterator[None]:
        """Charge the cost of the request of this number to its budget, if it has one."""
        budget = self._budgets.get(number)
        try:
            with budget.spent_here() if budget else contextlib.nullcontext():
                yield
        finally:
            self._budgets.pop(number, None)

    def _resolve(self, ref: ModelRef, credentials: Credentials, timeout: float, require: str | None) -> Listing:
        """Resolve a ref, and prove access: a listing is often free to see where the files are not, and may be known
        here already."""
        source = self._registry.source_for(ref)
        listing = source.resolve(ref, credentials, timeout)
        if not listing.open and listing.probe is not None:
            source.prove(listing, listing.probe, credentials, timeout)
        return applied(listing, self._config.weights, require)  # After the proof: its errors reveal which files exist.

    def _open(self, question: Open) -> Opened:
        source = self._registry.source_for(question.remote.listing.ref)
        ask = functools.partial(self._room.ask, question.transfer)
        file = LargeFile(source, self._blobs[question.into.root], self._bandwidth, question, ask)
        self._files[question.transfer] = file
        return file.opened

    def _answer(self, question: Question) -> Any:
        match question:
            case Resolve(ref, credentials, timeout, require):
                return self._resolve(ref, credentials, timeout, require)
            case Prove():
                prove(self._registry.source_for(question.listing.ref), self._askers, question)
            case Compare():
                compare(self._registry.source_for(question.listing.ref), self._askers, question)
            case Principal(ref, credentials, timeout):
                return self._registry.source_for(ref).principal(credentials, timeout)
            case Open():
                return self._open(question)
            case Read(transfer, piece):
                with self._tally.count(transfer) as count:
                    self._files[transfer].read(piece, count)
            case ReadWhole(transfer):
                with self._tally.count(transfer) as count:
                    self._files[transfer].read_whole(count)
            case Finish(transfer):
                return self._files.pop(transfer).finish()
            case Close(transfer, discard):
                if transfer in self._files:
                    self._files.pop(transfer).close(discard)
            case Gather(transfer):
                source = self._registry.source_for(question.remote.listing.ref)
                ask = functools.partial(self._room.ask, transfer)
                with self._tally.count(transfer) as count:
                    return SmallFiles(source, self._blobs[question.root], self._bandwidth, question, ask).gather(count)
            case Check():
                return run_check(question)
            case Inspect(ref, folder):
                inspect(ref, folder)
            case Shards(ref, name, index):
                return shards_of(ref, name, index)
            case _:
                assert_never(question)
        return None
