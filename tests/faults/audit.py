"""Whether the invariants hold on a root: of the raw disk before anything mends it, and of a store that has started."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cached.model import Digest
from cached.store.layout import Layout
from cached.store.snapshots.locks import held_files
from cached.store.store import Store
from tests.faults.models import HELD, KNOWN, LIMIT, Model, sha256
from tests.faults.points import RULE, Finding
from tests.faults.scenarios import Scenario

_HEX = re.compile(r"[0-9a-f]{64}\Z")
_TOP = re.compile(r"FORMAT|index\.db(-wal|-shm)?|blobs|snapshots|ingest|trash|quarantine")
_TABLES = ("blob", "snapshot", "snapshot_blob", "resolution", "identity", "pin", "fill", "hold", "reservation", "want")

Inodes = dict[str, int]


@dataclass
class Promises:
    """What callers were told before the fault struck."""

    ready: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    condemned: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, scenario: Scenario, said: Iterable[tuple[str, str]]) -> Promises:
        made = cls(ready={model.digest.hex for model in scenario.kept})
        for what, about in said:
            if what == "ready":
                made.ready.add(about)
                made.removed.discard(about)
            elif what == "removed":
                made.removed.add(about)
                made.ready.discard(about)
            elif what == "condemned":
                made.condemned.add(about)
        return made


class Audit:
    """Of one root after one fault. Bytes are hashed once for each inode and time of change."""

    def __init__(self, root: Path, scenario: Scenario, promises: Promises) -> None:
        self._layout = Layout(root)
        self._scenario, self._promises = scenario, promises
        self.wanted = scenario.wanted
        self._listed: list[Path] = []  # What is under blobs/, in this look at the root.
        self._hashes: dict[tuple[int, int, int], str] = {}

    def raw(self) -> list[Finding]:
        """Before any start: no row lies, and no path that a caller may have leads to anything partial."""
        self._look()
        return [*self._rows_lie(), *self._blobs(), *self._names()]

    def started(self, store: Store) -> list[Finding]:
        self._look()
        found = [*self._blobs(), *self._names(), *self._ready(store), *self._promised(store)]
        return [*found, *self._exposed(), *self._space(store), *self._strays(store)]

    def acquired(self, store: Store, digest: Digest) -> list[Finding]:
        """A caller was given this, now."""
        self._look()
        model = self._scenario.wanted
        if digest != model.digest:
            return [Finding("I1", f"{model.name} was published with bytes that its source never had")]
        found = store.index.find(model.ref)
        if found is None or found.snapshot != digest:
            return [Finding("I3", f"{model.name} was acquired and is not there")]
        return [*self._whole(model, "I1"), *self._space(store), *self._blobs()]

    def _look(self) -> None:
        self._listed = list(_under(self._layout.blobs))

    # Bytes.

    def _blobs(self) -> Iterator[Finding]:
        for path in self._listed:
            if _HEX.match(path.name) and not self._has(path, path.name):
                yield Finding("I1", f"the blob {path.name[:12]} has other bytes than its name says")

    def _names(self) -> Iterator[Finding]:
        """A path is a pure function of the content: whoever had it once has it still, whatever rows say."""
        for model in KNOWN.values():
            if self._layout.snapshot(model.digest).exists():
                yield from self._whole(model, "I2")

    def _whole(self, model: Model, invariant: str) -> Iterator[Finding]:
        path = self._layout.snapshot(model.digest)
        for file in model.manifest.files:
            try:
                right = self._has(path / file.path, file.digest.hex)
            except OSError as error:
                yield Finding(invariant, f"{model.name}/{file.path} cannot be read: {error.strerror}")
            else:
                if not right:
                    yield Finding(invariant, f"{model.name}/{file.path} has other bytes than its manifest says")

    def _has(self, path: Path, digest: str) -> bool:
        """Or the damage that was planted there, as long as nobody has noticed it."""
        found = self._hash(path)
        planted = self._scenario.planted.get(Digest(digest))
        noticed = self._scenario.wanted.digest.hex in self._promises.ready
        return found == digest or (planted is not None and found == planted.hex and not noticed)

    def _hash(self, path: Path) -> str:
        status = path.stat()
        key = (status.st_ino, status.st_mtime_ns, status.st_size)
        if key not in self._hashes:
            self._hashes[key] = sha256(path)
        return self._hashes[key]

    # Rows.

    def _rows_lie(self) -> Iterator[Finding]:
        with _index(self._layout) as db:
            blobs = _select(db, "SELECT * FROM blob")
            snapshots = _select(db, "SELECT * FROM snapshot WHERE state = 'ready'")
        for row in blobs:
            there = _size(self._layout.blob(Digest(row["digest"])))
            condemned = dict(row).get("damaged", 0)  # Which an index that has not been migrated cannot say.
            if there != row["size"] and not condemned:
                yield Finding("I5", f"the row of {row['digest'][:12]} says {row['size']} bytes, its file has {there}")
        for row in snapshots:
            digest = Digest(row["digest"])
            if not self._layout.snapshot(digest).is_dir() or not self._layout.manifest(digest).is_file():
                yield Finding("I2", f"there is a row of the ready snapshot {digest.hex[:12]}, and no directory")

    def _ready(self, store: Store) -> Iterator[Finding]:
        for row in store.index.query("SELECT digest FROM snapshot WHERE state = 'ready'"):
            read = store.snapshots.read(Digest(row["digest"]))
            if read is None:
                yield Finding("I2", f"the ready snapshot {row['digest'][:12]} has no manifest")
            elif Digest(row["digest"]) not in KNOWN:
                yield Finding("I1", f"the ready snapshot {row['digest'][:12]} is of bytes that no source had")
            elif condemned := {blob.hex for blob in read[0].blobs} & self._promises.condemned:
                yield from self._still_damaged(condemned)

    def _still_damaged(self, blobs: set[str]) -> Iterator[Finding]:
        for blob in blobs:
            path = self._layout.blob(Digest(blob))
            if not path.exists() or self._hash(path) != blob:
                yield Finding("I1", f"a snapshot is handed out with the condemned blob {blob[:12]}")

    def _promised(self, store: Store) -> Iterator[Finding]:
        for digest in self._promises.ready:
            model = KNOWN.get(Digest(digest))
            if model is None:
                yield Finding("I1", f"{digest[:12]} was reported ready: bytes that no source had")
                continue
            known = store.index.find(model.ref)
            if known is None or known.snapshot != model.digest:
                yield Finding("I3", f"{model.name} was reported ready, and is not")
            yield from self._whole(model, "I3")
        for digest in self._promises.removed:
            if self._layout.snapshot(Digest(digest)).exists():
                yield Finding("I3", f"{digest[:12]} was reported removed, and is there")
        pins = {row["snapshot"] for row in store.index.query("SELECT snapshot FROM pin")}
        for model in self._scenario.pinned:
            if model.digest.hex not in pins:
                yield Finding(RULE, f"the operator's pin of {model.name} is lost")

    # What others can open and lock.

    def _exposed(self) -> Iterator[Finding]:
        layout = self._layout
        alone = [layout.format, *layout.root.glob("index.db*"), *layout.snapshots.glob("*.json")]
        alone += [layout.blobs, layout.ingest, layout.trash, layout.quarantine]
        for path in alone:
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                yield Finding("I10", f"others can open {path.name[:12]}")

    # Space and strays.

    def _space(self, store: Store) -> Iterator[Finding]:
        usage = store.usage()
        if usage.used + usage.reserved > LIMIT:
            yield Finding("I5", f"{usage.used:,} bytes used and {usage.reserved:,} reserved are more than the limit")
        blobs = [path for path in self._listed if _HEX.match(path.name)]
        if (on_disk := sum(path.stat().st_size for path in blobs)) != usage.used:
            yield Finding("I5", f"{usage.used:,} bytes are accounted for, and {on_disk:,} are under blobs/")

    def _strays(self, store: Store) -> Iterator[Finding]:
        layout = self._layout
        rows = {row["digest"] for row in store.index.query("SELECT digest FROM blob")}
        reserved = {row["key"] for row in store.index.query("SELECT key FROM reservation")}
        snapshots = {row["digest"] for row in store.index.query("SELECT digest FROM snapshot")}
        strange = [name for name in os.listdir(layout.root) if not _TOP.fullmatch(name)]
        strange += [f"trash/{name}" for name in os.listdir(layout.trash)]
        strange += [f"ingest/{n}" for n in os.listdir(layout.ingest) if n.partition(".")[0] not in reserved]
        names = [(name, name.removesuffix(".json").removesuffix(".locks")) for name in os.listdir(layout.snapshots)]
        strange += [f"snapshots/{name}" for name, digest in names if digest not in snapshots]
        strange += [f"blobs/{p.name}" for p in self._listed if p.name.removesuffix(".pieces") not in rows]
        aside = os.listdir(layout.quarantine)
        strange += [f"quarantine/{name}" for name in aside if not name.startswith(self._scenario.aside)]
        yield from (Finding("I5", f"{name[:40]} is left behind") for name in strange)
        for key in reserved - {path.stem for path in layout.ingest.glob("*.part")}:
            yield Finding("I5", f"the reservation {key[:12]} is for nothing")


def lock_of(root: Path) -> Path:
    """What a replica of this user locks while it uses the model that is not part of the scenario."""
    layout = Layout(root)
    if layout.format.read_text() == "1\n":
        return layout.manifest(HELD.digest)
    return layout.locks(HELD.digest) / str(os.geteuid())


def inodes(root: Path) -> Inodes:
    """The files of the leased snapshot, its lock file among them."""
    layout = Layout(root)
    lock = layout.locks(HELD.digest) / str(os.geteuid())
    paths = [lock, *(layout.snapshot(HELD.digest) / file.path for file in HELD.manifest.files)]
    return {path.name: path.stat().st_ino for path in paths if path.exists()}


def leased(root: Path, before: Mapping[str, int], lock: int) -> list[Finding]:
    """I4: what is leased is where it was, file by file, and the lease is on its lock file."""
    now = inodes(root)
    found = [
        Finding("I4", f"the leased {name} is another file, or gone") for name in before if now.get(name) != before[name]
    ]
    if not os.fstat(lock).st_nlink:
        found.append(Finding("I4", "the lock file of a leased snapshot was removed"))
    layout = Layout(root)
    if layout.format.read_text() != "1\n" and not held_files(str(layout.locks(HELD.digest))):
        found.append(Finding("I4", "the lease of a replica is not seen"))
    return found


def rows_of(root: Path) -> dict[str, list[str]]:
    """Everything that the index says of the store, to be compared with what it says later."""
    with _index(Layout(root)) as db:
        return {table: sorted(map(repr, map(tuple, _select(db, f"SELECT * FROM {table}")))) for table in _TABLES}


@contextmanager
def _index(layout: Layout) -> Iterator[sqlite3.Connection]:
    """A copy, so that looking changes nothing."""
    with tempfile.TemporaryDirectory(dir=layout.root.parent) as folder:
        for name in ("index.db", "index.db-wal"):
            if (layout.root / name).exists():
                shutil.copyfile(layout.root / name, Path(folder) / name)
        with closing(sqlite3.connect(Path(folder) / "index.db")) as db:
            db.row_factory = sqlite3.Row
            yield db


def _select(db: sqlite3.Connection, sql: str) -> list[sqlite3.Row]:
    """An index that has no such table, or is none, says nothing."""
    try:
        return db.execute(sql).fetchall()
    except sqlite3.DatabaseError:
        return []


def _under(folder: Path) -> Iterator[Path]:
    """What lies in the folders of a folder."""
    for prefix in sorted(os.listdir(folder)):
        for name in os.listdir(folder / prefix):
            yield folder / prefix / name


def _size(path: Path) -> int | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
