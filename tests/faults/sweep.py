"""One fault at one place: a copy of the root, a child in the scenario, strace at it, and what is left afterwards."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cached.errors import CachedError, StoreDegraded
from cached.store.store import Store
from tests.faults import strace
from tests.faults.audit import Audit, Promises, inodes, leased, lock_of, rows_of
from tests.faults.forks import Channel, Child, in_child
from tests.faults.models import HELD, acquire, open_store
from tests.faults.points import RULE, Finding
from tests.faults.roots import copy_root, remove_root, tree
from tests.faults.scenarios import Say, Scenario

Tracing = tuple[str, ...] | None  # Options of strace; None: without it.
Patch = Callable[[Say], None]  # Changes the code of a child. It may tell what it does.


def unpatched(say: Say) -> None:
    """The code as it is."""


@dataclass
class Ran:
    """What came of one run. `said` is what was promised, and `found` what the living process did wrong."""

    said: list[tuple[str, str]]
    found: list[Finding]
    code: int
    log: Path


class Bench:
    """Starting roots, made once, and room for the copies that faults are tried on."""

    def __init__(self, folder: Path, patch: Patch = unpatched) -> None:
        self.folder, self.patch = folder, patch
        folder.mkdir(exist_ok=True)

    def beginning(self, scenario: Scenario) -> Path:
        root = self.folder / scenario.name
        if not root.exists():
            fresh = self.folder / f"{scenario.name}.{os.getpid()}"
            in_child(lambda say: scenario.start(open_store(fresh)))
            scenario.finish(fresh)
            fresh.rename(root)
        return root

    @contextlib.contextmanager
    def copy(self, scenario: Scenario) -> Iterator[Path]:
        root = self.folder / f"run.{os.getpid()}"
        remove_root(root)
        copy_root(self.beginning(scenario), root)
        try:
            yield root
        finally:
            remove_root(root)


def try_fault(
    bench: Bench, scenario: Scenario, tracing: Tracing = None, patch: Patch = unpatched
) -> tuple[Ran, list[Finding]]:
    """Everything that the fault broke, then and after a restart. `patch` is for the scenario's process alone."""
    with bench.copy(scenario) as root, lease(root) as lock:
        before = inodes(root)
        ran = run(bench, scenario, root, tracing, patch)
        audit = Audit(root, scenario, Promises.of(scenario, ran.said))
        found = [*ran.found, *audit.raw(), *leased(root, before, lock)]
        found += restarted(audit, root, bench.patch)
        found += leased(root, before, lock)
    return ran, found


@contextlib.contextmanager
def lease(root: Path) -> Iterator[int]:
    """A replica uses the model that is not part of the scenario."""
    lock = lock_of(root)
    if not lock.exists():
        lock.parent.mkdir(mode=0o711, exist_ok=True)
        lock.touch(0o400)
    fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield fd
    finally:
        os.close(fd)


def run(
    bench: Bench,
    scenario: Scenario,
    root: Path,
    tracing: Tracing,
    patch: Patch = unpatched,
    watched: tuple[str, ...] = strace.WATCHED,
    begin: Callable[[], None] = lambda: None,
) -> Ran:
    """Let a child do what the scenario says, with strace at it unless `tracing` is None. `begin` is called before."""
    log = bench.folder / f"log.{os.getpid()}"

    def work(channel: Channel) -> None:
        bench.patch(channel.say)
        store = None if scenario.run is None else open_store(root)
        channel.say("prepared")
        channel.hear()
        patch(channel.say)
        _act(scenario, root, store, channel)

    child = Child(work)
    tracer = None
    try:
        if child.channel.hear() != ("prepared",):
            raise RuntimeError(f"{scenario.name} cannot begin")
        begin()
        if tracing is not None:
            tracer = strace.attach(child.pid, log, *tracing, watched=watched)
        child.channel.say("go")
        said = child.said()
        code = child.wait()
    finally:
        child.end()
        if tracer is not None:
            strace.finish(tracer)
    found = [Finding(*rest) for kind, *rest in said if kind == "finding"]
    if code > 0:
        found.append(Finding(RULE, "the process failed with an error that has no name"))
    return Ran([message for message in said if message[0] != "finding"], found, code, log)


def _act(scenario: Scenario, root: Path, store: Store | None, channel: Channel) -> None:
    try:
        if scenario.run is None:
            store = open_store(root)
            channel.say("opened", "")
        else:
            assert store is not None  # Opened before.
            scenario.run(store, channel.say)
    except CachedError as error:
        channel.say("error", type(error).__name__)
        if store is not None:
            _live_on(scenario, store, channel, error)
    except Exception as error:
        channel.say("finding", RULE, f"an error that has no name: {error!r}")


def _live_on(scenario: Scenario, store: Store, channel: Channel, error: CachedError) -> None:
    """After an error that had a name: hits work, and whoever tries again succeeds or gets another such error.

    A disk that failed for good is not written to any more before a restart: see cached.daemon.space.disk.
    """
    try:
        known = store.index.find(HELD.ref)
        if known is None or known.snapshot != HELD.digest:
            channel.say("finding", RULE, "after the error the node does not serve what it has")
        lasting = isinstance(error, StoreDegraded) and error.lasting
        if scenario.run is not None and not lasting:
            scenario.run(store, channel.say)
    except CachedError as another:
        channel.say("error", type(another).__name__)
    except Exception as another:
        channel.say("finding", RULE, f"afterwards, an error that has no name: {another!r}")


def restarted(audit: Audit, root: Path, patch: Patch) -> list[Finding]:
    """In a process whose locks are its own: start, start again, and ask for the model; each audited."""

    def work(say: Say) -> list[Finding]:
        patch(say)
        return restarts(audit, root)

    try:
        return in_child(work)
    except RuntimeError as error:
        return [Finding("I7", f"the restart crashed: {error}")]


def restarts(audit: Audit, root: Path) -> list[Finding]:
    return list(_restarts(audit, root))


def _restarts(audit: Audit, root: Path) -> Iterator[Finding]:
    doing = "a restart"
    try:
        with contextlib.closing(open_store(root)) as store:
            yield from audit.started(store)
        first = tree(root), rows_of(root)
        doing = "a second restart"
        with contextlib.closing(open_store(root)) as store:
            second = tree(root), rows_of(root)
            yield from _changes(first, second)
            doing = "asking again"
            yield from audit.acquired(store, acquire(store, audit.wanted))
    except Exception as error:
        yield Finding("I7", f"{doing} failed: {error!r}")


def _changes(first: tuple[Any, Any], second: tuple[Any, Any]) -> Iterator[Finding]:
    for name in sorted(first[0].keys() ^ second[0].keys()) or [n for n in first[0] if first[0][n] != second[0][n]]:
        yield Finding("I7", f"the second restart changed {name[:40]}")
    for table in first[1]:
        if first[1][table] != second[1][table]:
            yield Finding("I7", f"the second restart changed the table {table}")
