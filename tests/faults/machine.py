"""F20: acquiring, leasing, pinning, evicting, damage, crashes and clocks in any order, beside a model of the store."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from cached.client.lease import take
from cached.config import Config, Duration, Size
from cached.daemon.space.disk import Disk
from cached.daemon.space.evictor import Evictor, Freed, Wish
from cached.daemon.space.reservation import Plan, Room
from cached.errors import AllHeld, DigestMismatch
from cached.model import Digest
from cached.store.blobs import verify
from cached.store.store import Store
from tests.faults.filling import Filling
from tests.faults.models import Model, sha256
from tests.faults.points import RULE, Finding, Point, Tally
from tests.faults.roots import remove_root, tree
from tests.faults.suite import Context, Suite

BLOCK = 4096  # Files are whole blocks, so that what is in quarantine takes as much as it did before.
LIMIT = 12 * BLOCK
FULL = 1000  # Examples of the whole suite.


def _bytes(text: str, blocks: int = 1) -> bytes:
    return (text.encode() * (BLOCK * blocks))[: BLOCK * blocks]


SHARED = _bytes("shared")
MODELS = [
    Model("alone", {"w": _bytes("alone", 3), "config.json": _bytes("{}")}),
    Model("one", {"w": _bytes("one", 2), "in/a/folder": SHARED}),
    Model("two", {"w": _bytes("two", 3), "shared": SHARED}),
    Model("three", {"w": _bytes("three", 2), "shared": SHARED, "v": _bytes("v")}, promised=True),
    Model("four", {"w": _bytes("four", 4), "v": _bytes("v")}, promised=True),
]
BY_NAME = {model.name: model for model in MODELS}
BY_DIGEST = {model.digest: model for model in MODELS}
PREFIXES = sorted({blob.hex[:2] for model in MODELS for blob in model.manifest.blobs})
DAMAGE = ("flip", "truncate", "delete", "symlink")

models = st.sampled_from(sorted(BY_NAME))


class Machine(RuleBasedStateMachine):
    """`ready` is what callers must find; the rest is what keeps it from being removed, or was done to it."""

    counts: Counter[str] = Counter()

    def __init__(self) -> None:
        super().__init__()
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="cached-machine-", dir=memory))
        self.dead: list[Store] = []  # Kept: to collect one would close it, which a crash does not.
        self.ready: set[Digest] = set()
        self.leases: dict[Digest, list[int]] = {}
        self.pins: set[Digest] = set()
        self.fills: list[Filling] = []
        self.hidden = 0  # Bytes whose blob is gone: snapshots still link to them, and a start finds them again.
        self.hashes: dict[tuple[int, int, int, int], str] = {}
        self.store = self._open()

    def _open(self) -> Store:
        config = Config(root=self.folder / "root", limit=Size(LIMIT), keep_free=Size(0), min_residency=Duration(0))
        store = Store(config)
        self.room = Room(config, Disk(store))
        return store

    def teardown(self) -> None:
        for fds in self.leases.values():
            for fd in fds:
                os.close(fd)
        for store in [self.store, *self.dead]:
            store.close()
        remove_root(self.folder)

    # Coming and going.

    @rule(wanted=st.lists(models, min_size=1, max_size=3))
    def acquire(self, wanted: list[str]) -> None:
        """The whole way: a hit, or reserve, make room, ingest, publish, commit."""
        for name in wanted:
            self._acquire(BY_NAME[name])

    def _acquire(self, model: Model) -> None:
        if self.store.index.find(model.ref) is None:
            fill = self._begin(model)
            if fill is not None:
                self._finish(fill)
                self.counts["fetched"] += 1
        else:
            self.counts["hits"] += 1

    @rule(name=models, steps=st.integers(0, 2), uid=st.sampled_from([None, 1, 2]))
    def begin(self, name: str, steps: int, uid: int | None) -> None:
        """A fill that others overtake."""
        model = BY_NAME[name]
        fill = self._begin(model, uid) if self.store.index.find(model.ref) is None else None
        if fill is not None:
            self.fills.append(fill)
            with self._giving_way(fill):
                for _ in range(min(steps, len(fill.wanted))):
                    fill.step()

    @precondition(lambda self: self.fills)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        self._finish(self._one(data))

    @precondition(lambda self: self.fills)
    @rule(data=st.data(), begun=st.booleans())
    def abandon(self, data: st.DataObject, begun: bool) -> None:
        """Its parts stay for whoever asks next."""
        fill = self.fills[data.draw(st.integers(0, len(self.fills) - 1))]
        if begun and fill.wanted:
            with self._giving_way(fill):
                fill.begin_next()
        if fill in self.fills:
            self._park(fill)

    def _one(self, data: st.DataObject) -> Filling:
        return self.fills.pop(data.draw(st.integers(0, len(self.fills) - 1)))

    def _plan(self, model: Model, uid: int | None) -> Plan:
        return self.room._plan(model.listing, uid, [fill.number for fill in self.fills])

    def _begin(self, model: Model, uid: int | None = None) -> Filling | None:
        """As the daemon does: nothing goes yet. None when too little may go."""
        plan = self._plan(model, uid)
        if plan.refusal is None:
            self.counts["promised"] += len(plan.promised.snapshots)
            return Filling(self.store, model, plan, self._secure)
        self.counts["no room"] += 1
        if uid is None and not self.fills:
            needed = plan.usage.used + plan.usage.reserved + plan.needs.new - plan.usage.limit
            wish = plan.needs.wish(None)
            assert Evictor(self.store, 0, {}).plan(needed, wish).short, f"{model.name} was refused though it fits"
            foreseen = self._free(needed, wish).short
            assert foreseen or self._plan(model, uid).refusal, f"{model.name} fits now, and nobody knew"
        return None

    def _secure(self, fill: Filling, steps: dict[str, int]) -> None:
        """What is promised goes now; a fill that comes later gives way, or this one does."""
        before = self.store.usage()
        while (stuck := self.room._steps.take(steps, (), [fill.number for fill in self.fills])) is not None:
            self._note_gone()
            other = next((each for each in self.fills if each.number == stuck.stop), None)
            if other is None or other is fill:
                raise AllHeld("no room for the next bytes")
            self.counts["gave way"] += 1
            self._park(other)
        gone = self._note_gone()
        lacking = sum(steps.values())
        assert not gone or before.used + before.reserved + lacking > before.limit, (
            "something went though there was room"
        )

    def _note_gone(self) -> set[Digest]:
        """What has been evicted meanwhile."""
        gone = {digest for digest in self.ready if not self.store.snapshots.path(digest).exists()}
        for digest in gone:
            assert not self._kept(digest), f"{BY_DIGEST[digest].name} was held, and was evicted"
        self.ready -= gone
        self.counts["evicted"] += len(gone)
        return gone

    def _park(self, fill: Filling) -> None:
        fill.abandon()
        self.fills.remove(fill)
        self.counts["parked"] += 1

    @contextlib.contextmanager
    def _giving_way(self, fill: Filling) -> Iterator[None]:
        """A fill that finds no room any more is over, with nothing lost but itself."""
        try:
            yield
        except AllHeld:
            self.counts["half-way"] += 1
            fill.abandon()
            if fill in self.fills:
                self.fills.remove(fill)

    def _finish(self, fill: Filling) -> None:
        with self._giving_way(fill):
            try:
                digest = fill.finish()
            except DigestMismatch:  # Condemned while it was being filled: never handed out; asked for again.
                fill.abandon()
                return
            assert digest == fill.model.digest, f"{fill.model.name} came out as other bytes"
            self.ready.add(digest)

    # Holding.

    @precondition(lambda self: self.ready)
    @rule(data=st.data())
    def lease(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(self.ready, key=str)))
        fd = take(self.store.leases.make(digest, os.geteuid()))
        assert fd is not None, "what was ready could not be leased"
        self.leases.setdefault(digest, []).append(fd)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(self.leases, key=str)))
        os.close(self.leases[digest].pop())
        if not self.leases[digest]:
            del self.leases[digest]

    @precondition(lambda self: self.ready)
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(self.ready, key=str)))
        self.store.index.pin(digest, None, 0)
        self.pins.add(digest)

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(self.pins, key=str)))
        self.store.index.unpin(digest)
        self.pins.discard(digest)

    # Removing.

    @rule(need=st.integers(1, LIMIT))
    def make_room(self, need: int) -> None:
        freed = self._free(need)
        if freed.short:
            left = {Digest(row["digest"]) for row in self.store.index.query("SELECT digest FROM snapshot")}
            assert left <= self.leases.keys() | self.pins, "something that nobody holds was not removed"

    @rule(name=models)
    def remove(self, name: str) -> None:
        model = BY_NAME[name]
        there = self.store.snapshots.path(model.digest).exists()
        gone = self.store.evict(model.digest, "test")
        assert gone == (there and not self._kept(model.digest)), f"{model.name}: removed {gone}, there {there}"
        if gone:
            self.ready.discard(model.digest)

    def _free(self, need: int, wish: Wish | None = None) -> Freed:
        freed = Evictor(self.store, 0, {}).free(need, wish or Wish("for a test"))
        for victim in freed.victims:
            assert not self._kept(victim.digest), f"{BY_DIGEST[victim.digest].name} was held, and was evicted"
            self.ready.discard(victim.digest)
            self.counts["evicted"] += 1
        return freed

    def _kept(self, digest: Digest) -> bool:
        return digest in self.leases or digest in self.pins

    # Damage.

    @precondition(lambda self: self.ready)
    @rule(data=st.data(), how=st.sampled_from(DAMAGE), restart=st.sampled_from([False, False, False, True]))
    def corrupt(self, data: st.DataObject, how: str, restart: bool) -> None:
        """Found by a check, or by the next start."""
        model = BY_DIGEST[data.draw(st.sampled_from(sorted(self.ready, key=str)))]
        digest = data.draw(st.sampled_from(sorted(model.manifest.blobs, key=str)))
        path, row = self.store.blobs.path(digest), self.store.blob(digest)
        assert row is not None
        _damage(path, how)
        self.counts[f"damaged: {how}"] += 1
        if how in ("delete", "symlink"):
            self.hidden += row.size
        if restart:
            self._crash()
            self._start()
            return
        found = verify.check(str(path), digest, row.size, row.pieces, deep=False)
        assert found.problem is not None, f"a check finds nothing wrong with a blob after {how}"
        affected = self.store.condemn(digest, found)
        having = {d for d, model in BY_DIGEST.items() if digest in model.manifest.blobs}
        assert affected is not None
        assert set(affected) >= having & self.ready
        self.ready -= having

    # Crashes and clocks.

    @precondition(lambda self: self.ready or self.fills)
    @rule(begun=st.booleans(), index=st.sampled_from(["kept", "kept", "lost"]))
    def kill(self, begun: bool, index: str) -> None:
        """With fills half-way, and nothing cleaned up."""
        for fill in list(self.fills) if begun else ():
            if fill in self.fills and fill.wanted:
                with self._giving_way(fill):
                    fill.begin_next()
        self._crash()
        if index == "lost":
            for path in (self.folder / "root").glob("index.db*"):
                path.unlink()
            self.pins.clear()  # Only the index knew.
        self._start()

    @precondition(lambda self: self.ready)
    @rule(data=st.data(), ahead=st.sampled_from([-1e9, -1e6, 1e6, 1e9]))
    def set_clock(self, data: st.DataObject, ahead: float) -> None:
        """A use that was noted under another clock."""
        digest = data.draw(st.sampled_from(sorted(self.ready, key=str)))
        with self.store.index.transaction() as db:
            db.execute("UPDATE snapshot SET used_at = used_at + ? WHERE digest = ?", (ahead, digest.hex))

    def _crash(self) -> None:
        """Only the claim on the root ends, as it does with the process."""
        self.store._root_lock.close()
        self.dead.append(self.store)
        self.fills.clear()

    def _start(self) -> None:
        """I7: it converges, and a second start finds nothing to do."""
        self.store = self._open()
        self.counts["starts"] += 1
        before = tree(self.folder / "root")
        found = {digest for digest, model in BY_DIGEST.items() if self._found(model)}
        self.store.close()
        self.store = self._open()
        assert tree(self.folder / "root") == before, "a second start changed something"
        assert {digest for digest, model in BY_DIGEST.items() if self._found(model)} == found
        damaged = {d for d in self.ready - found if not self._sound(BY_DIGEST[d])}
        assert self.ready - damaged <= found, "what was ready and whole is not ready after a start"
        self.ready = found
        assert self.store.layout.trash.is_dir() and not os.listdir(self.store.layout.trash)
        assert self.store.index.query("SELECT 1 FROM snapshot WHERE used_at > unixepoch() + 1") == []

    def _found(self, model: Model) -> bool:
        known = self.store.index.find(model.ref)
        assert known is None or known.snapshot == model.digest, f"{model.name} means something else"
        return known is not None

    def _sound(self, model: Model) -> bool:
        """Whether every blob of it is there."""
        return all(self.store.blob(file.digest) is not None for file in model.manifest.files)

    # What holds after every step.

    @invariant()
    def bytes_are_what_they_are_called(self) -> None:
        """I1."""
        self.counts["steps"] += 1
        for path in self._blobs():
            assert self._hash(path) == path.name, "I1: a blob has other bytes than its name says"

    @invariant()
    def what_is_ready_is_found_and_whole(self) -> None:
        """I2, I3."""
        for digest, model in BY_DIGEST.items():
            assert self._found(model) == (digest in self.ready), f"I3: {model.name} is ready: {digest in self.ready}"
            if digest in self.ready:
                path = self.store.snapshots.path(digest)
                there = {str(file.relative_to(path)) for file in path.rglob("*") if not file.is_dir()}
                assert there == set(model.files), f"I2: {model.name} has {there}"
                for file in model.manifest.files:
                    assert self._hash(path / file.path) == file.digest.hex, f"I2: {model.name}/{file.path}"

    @invariant()
    def what_is_leased_stays(self) -> None:
        """I4."""
        for digest, fds in self.leases.items():
            assert self.store.snapshots.path(digest).is_dir(), f"I4: {BY_DIGEST[digest].name} is leased and gone"
            for fd in fds:
                assert os.fstat(fd).st_nlink, f"I4: the lock of {BY_DIGEST[digest].name} is leased and gone"

    @invariant()
    def running_fills_keep_their_blobs(self) -> None:
        """I4."""
        rows = self.store.index.query("SELECT h.blob FROM hold h JOIN blob b ON b.digest = h.blob WHERE NOT b.damaged")
        for row in rows:
            assert self.store.blobs.size(Digest(row["blob"])) is not None, "I4: a running fill has lost a blob"

    @invariant()
    def space_is_accounted_for_and_within_the_limit(self) -> None:
        """I5."""
        usage = self.store.usage()
        total = usage.used + usage.reserved + usage.quarantined
        assert total <= LIMIT + self.hidden, f"I5: {usage}"
        on_disk = sum(path.lstat().st_size for path in self._blobs())
        assert on_disk == usage.used, f"I5: {on_disk} bytes lie there, {usage.used} are accounted for"
        parts = sum(path.stat().st_size for path in self.store.layout.ingest.glob("*.part"))
        assert parts <= usage.reserved, f"I5: {parts} bytes have landed, and {usage.reserved} are set aside"

    @invariant()
    def what_is_promised_is_there_and_for_one_fill_that_runs(self) -> None:
        promised = self.store.promises.promised()
        assert set(promised.values()) <= {fill.number for fill in self.fills}
        assert {d for d in promised if not self.store.snapshots.path(d).exists()} <= self._damaged()

    def _damaged(self) -> set[Digest]:
        """Which have a row all the same."""
        return set(BY_DIGEST) - self.ready

    def _blobs(self) -> list[Path]:
        """Only folders that a blob of ours can be in: there are 256, and this is asked after every step."""
        blobs = self.store.layout.blobs
        return [blobs / prefix / name for prefix in PREFIXES for name in os.listdir(blobs / prefix)]

    def _hash(self, path: Path) -> str:
        status = path.lstat()
        key = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        if key not in self.hashes:
            self.hashes[key] = sha256(path)
        return self.hashes[key]


def _damage(path: Path, how: str) -> None:
    if how == "delete":
        path.unlink()
    elif how == "symlink":
        path.unlink()
        path.symlink_to("/etc/passwd")
    else:
        path.chmod(0o644)
        with path.open("r+b") as file:
            if how == "truncate":
                file.truncate(path.stat().st_size // 2)
            else:
                first = file.read(1)
                file.seek(0)
                file.write(bytes([first[0] ^ 1]))
        path.chmod(0o444)


def explore(examples: int, steps: int, same: bool = True, shortest: bool = True) -> None:
    """AssertionError, with the way to it, when something went wrong; `shortest` looks for a shorter way first.

    `same`: the same examples every time.
    """
    given = settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=same,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink) if shortest else (Phase.generate,),
    )
    ours = logging.getLogger("cached")
    before = ours.level
    ours.setLevel(logging.CRITICAL)
    try:
        run_state_machine_as_test(Machine, settings=given)
    finally:
        ours.setLevel(before)


def suite(context: Context) -> Tally:
    """Other examples each time, and many more than the tests try."""
    tally = Tally("F20", "machine", "steps in any order")
    Machine.counts.clear()
    found = []
    try:
        explore(max(10, FULL // context.every), 50, same=False)
    except AssertionError as error:
        found = [Finding(str(error).partition(":")[0] if str(error)[:1] == "I" else RULE, str(error))]
    tally.add(Point("machine", "-", 0, "-"), found)
    tally.points = Machine.counts["steps"]
    return tally


SUITE = Suite("F20", "machine", suite)
