"""Negative controls: one thing is wrong with the code, and the suite must see it."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import cached.client.lease
import cached.store.blobs.hashers
from cached.model import Digest
from cached.store import private
from cached.store.blobs.blobs import Blobs
from cached.store.blobs.ingest import Ingest
from cached.store.blobs.piece_journal import recorded
from cached.store.index.index import Index
from cached.store.snapshots.acl import allowed
from cached.store.snapshots.leases import Leases
from cached.store.store import Store
from tests.faults.errors import KILL
from tests.faults.models import NEW, Model, fetch
from tests.faults.points import RULE, Finding, Point, Tally
from tests.faults.power import State
from tests.faults.replay import replay
from tests.faults.scenarios import SCENARIOS, Say, Scenario, held, held_and_new
from tests.faults.suite import Context, Suite
from tests.faults.sweep import Patch, try_fault
from tests.faults.sweeps import sweep

LIAR = Model("liar", {"w.safetensors": b"what was promised"}, True, {"w.safetensors": b"what was sent 123"})


def _lied_to(store: Store, say: Say) -> None:
    say("ready", fetch(store, LIAR).hex)


def _raced(store: Store, say: Say) -> None:
    """A caller opens the lock file; before it has the lock, the snapshot is evicted."""
    real = cached.client.lease.fcntl

    def flock(fd: int, operation: int) -> None:
        cached.client.lease.fcntl = real
        if store.evict(NEW.digest, "test"):
            say("removed", NEW.digest.hex)
        real.flock(fd, operation)

    cached.client.lease.fcntl = SimpleNamespace(flock=flock, LOCK_SH=real.LOCK_SH, LOCK_NB=real.LOCK_NB)  # type: ignore
    lock = store.leases.make(NEW.digest, os.geteuid())
    if cached.client.lease.take(lock) is not None and not os.path.exists(lock):
        say("finding", "I4", "a lease was given on a snapshot that was being removed")


def _locked_by_a_stranger(store: Store, say: Say) -> None:
    """All that one user can open is locked by it, exclusively; another wants a lease."""
    caller, stranger = 4001, 4002
    for uid in (caller, stranger):
        store.leases.make(NEW.digest, uid)
    paths = [path for path in store.layout.snapshots.glob(f"{NEW.digest.hex}*/*") if "locks" in path.parent.name]
    paths.append(store.snapshots.manifest(NEW.digest))
    held = [path.open() for path in paths if path.stat().st_mode & 0o004 or stranger in allowed(path)]
    for file in held:
        fcntl.flock(file, fcntl.LOCK_EX)
    if not held or cached.client.lease.take(store.leases.make(NEW.digest, caller)) is None:
        say("finding", "I4", "a stranger keeps others from leasing")


LOCKED = Scenario("locked", held_and_new, _locked_by_a_stranger)
WRONG_BYTES = Scenario("wrong bytes", held, _lied_to)
RACE = Scenario("race", held_and_new, _raced)


def undisturbed(scenario: Scenario, context: Context) -> Tally:
    """The scenario by itself, audited like after a fault."""
    tally = Tally("control", scenario.name, "controls")
    tally.add(Point(scenario.name, "none", 0, "-"), try_fault(context.bench, scenario)[1])
    return tally


# What is wrong.


def no_directory_fsync(say: Say) -> None:
    _replace("fsync_directory", lambda *_: None)


def no_digest_check(say: Say) -> None:
    def finish(self: Any, name: str) -> Digest:
        return self._digest or Digest(self._sha256.hexdigest())

    cached.store.blobs.hashers.Checks.finish = finish  # type: ignore[method-assign]


def row_before_rename(say: Say) -> None:
    publish, sync, add = Blobs.publish, Blobs.sync, Index.add_blobs
    late: list[tuple[Blobs, str, Any]] = []

    def put_off(self: Blobs, key: str, verified: Any) -> int:
        late.append((self, key, verified))
        return os.lstat(self._part(key)).st_mtime_ns

    def add_first(self: Index, published: Iterable[Any]) -> None:
        add(self, list(published))
        for blobs, key, verified in late:
            publish(blobs, key, verified)
            sync(blobs, [verified.digest])
        late.clear()

    Blobs.publish, Blobs.sync = put_off, lambda *_: None  # type: ignore[method-assign,assignment]
    Index.add_blobs = add_first  # type: ignore[method-assign]


def piece_state_is_believed(say: Say) -> None:
    def resume(self: Any) -> None:
        for claim in recorded(self._state_path):
            if claim.count is None:
                self._landed[claim.index] = claim.checksum
        self._advance()

    Ingest._resume = resume  # type: ignore[method-assign]


def no_exclusive_lock(say: Say) -> None:
    @contextlib.contextmanager
    def free(self: Leases, snapshot: Digest) -> Iterator[bool]:
        yield True

    Leases.exclusive = free  # type: ignore[method-assign]


def no_link_count(say: Say) -> None:
    def take(lock: str) -> int | None:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
        cached.client.lease.fcntl.flock(fd, cached.client.lease.fcntl.LOCK_SH | cached.client.lease.fcntl.LOCK_NB)
        return fd

    cached.client.lease.take = take


def one_lock_file_for_all(say: Say) -> None:
    Leases._shares = lambda self, uid: True  # type: ignore[method-assign]


def index_left_open(say: Say) -> None:
    private.close_index = lambda layout: None


def _replace(name: str, value: Callable[..., Any]) -> None:
    """Wherever the store has imported it."""
    for module in [found for key, found in sys.modules.items() if key.startswith("cached.store.")]:
        if hasattr(module, name):
            setattr(module, name, value)


@dataclass(frozen=True)
class Control:
    """`patch` makes the code wrong, and `look` is the part of the suite that must see it."""

    name: str
    patch: Patch
    look: Callable[[Context], Tally]


def _told(state: State) -> bool:
    return bool(state.said)


def _zeroed(state: State) -> bool:
    return any(kept.size is not None for _, kept in state.contents)


def _some(look: Callable[[Context], Tally], every: int) -> Callable[[Context], Tally]:
    return lambda context: look(replace(context, every=every))


CONTROLS = {
    control.name: control
    for control in (
        Control(
            "no directory fsync",
            no_directory_fsync,
            _some(functools.partial(replay, SCENARIOS["publish"], only=_told), 5),
        ),
        Control("no digest check", no_digest_check, functools.partial(undisturbed, WRONG_BYTES)),
        Control(
            "row before rename",
            row_before_rename,
            functools.partial(sweep, SCENARIOS["publish"], replace(KILL, strikes=("rename",))),
        ),
        Control(
            "piece state is believed",
            piece_state_is_believed,
            _some(functools.partial(replay, SCENARIOS["park"], only=_zeroed), 1),
        ),
        Control("no exclusive lock", no_exclusive_lock, functools.partial(undisturbed, SCENARIOS["evict"])),
        Control("no st_nlink check", no_link_count, functools.partial(undisturbed, RACE)),
        Control("one lock file for all", one_lock_file_for_all, functools.partial(undisturbed, LOCKED)),
        Control("index left open", index_left_open, functools.partial(undisturbed, SCENARIOS["upgrade"])),
    )
}


def seen(control: Control, context: Context) -> Tally:
    """What the suite finds with the control."""
    return control.look(replace(context, patch=control.patch))


def prove(control: Control, context: Context) -> Tally:
    """A violation when the suite does not see the control, or sees something without it."""
    tally = Tally("control", control.name, "controls")
    blind = [] if seen(control, context).violations else [Finding(RULE, "the suite does not see it")]
    tally.add(Point(control.name, "with", 1, "control"), blind)
    without = [violation.finding for violation in control.look(context).violations]
    tally.add(Point(control.name, "without", 2, "control"), without)
    return tally


PROOFS = [Suite("control", control.name, functools.partial(prove, control)) for control in CONTROLS.values()]
