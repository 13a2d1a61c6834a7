"""What the store is doing when the fault strikes: how its root begins, what is done, and what must outlive it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cached.model import Digest
from cached.store.blobs.verify import Checkup, identity
from cached.store.index import schema
from cached.store.layout import Layout
from cached.store.store import Store
from tests.faults.models import HELD, LARGE, NEW, Model, by_another_engine, fetch

Say = Callable[..., None]  # A promise, and what it is about: ("ready", digest), ("removed", digest) …

BLOB = Digest.of(NEW.files[LARGE])
DAMAGED = bytes([NEW.files[LARGE][0] ^ 1]) + NEW.files[LARGE][1:]


@dataclass(frozen=True)
class Scenario:
    """`start` makes the root, with the store open, in a process that then vanishes; `run` is what is disturbed."""

    name: str
    start: Callable[[Store], None]
    run: Callable[[Store, Say], None] | None  # None: opening the store is itself what is disturbed.
    finish: Callable[[Path], None] = lambda root: None  # What becomes of the root once nobody has it open.
    kept: tuple[Model, ...] = (HELD,)  # READY before, and to stay so whatever happens.
    planted: Mapping[Digest, Digest] = field(default_factory=dict)  # Blobs that are damaged, and what their bytes are.
    pinned: tuple[Model, ...] = ()  # Held by the operator, and to be so afterwards.
    aside: tuple[str, ...] = ()  # How what may be in quarantine afterwards begins.
    wanted: Model = NEW


def held(store: Store) -> None:
    fetch(store, HELD)


def held_and_new(store: Store) -> None:
    fetch(store, HELD)
    fetch(store, NEW)


def _pinned(store: Store) -> None:
    """What a restart finds after a crash, with an operator's hold."""
    held_and_new(store)
    store.index.pin(NEW.digest, None, 0)


def _parked(store: Store) -> None:
    fetch(store, HELD)
    _park(store, lambda *_: None)


def _park(store: Store, say: Say) -> None:
    """The second piece comes, and 5 MiB of the first, of which 4 are noted; then the source breaks off."""
    entry = next(entry for entry in NEW.listing.entries if entry.path == LARGE)
    key, data = NEW.key(entry), memoryview(NEW.files[LARGE])
    fill = store.index.begin(str(NEW.listing.ref), {key: entry.size}, (), store.usage().limit)
    assert fill is not None
    ingest = store.blobs.ingest(key, entry)
    try:
        for piece in reversed(ingest.missing()):
            with ingest.landing(piece) as landing:
                landing.write(data[piece.offset + landing.done :][: 5 << 20])  # All of the second piece.
                if landing.done < piece.length:
                    raise ConnectionError
    except ConnectionError:
        pass
    finally:
        ingest.close()
        store.index.abandon(fill, store.blobs.parts())


def _damaged(store: Store) -> None:
    held_and_new(store)
    path = store.blobs.path(BLOB)
    status = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(DAMAGED[:1])
    path.chmod(0o444)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # A disk that rots tells nobody.


def _publish(store: Store, say: Say) -> None:
    say("ready", fetch(store, NEW).hex)


def _import(store: Store, say: Say) -> None:
    say("ready", fetch(store, NEW, by_another_engine).hex)


def _evict(store: Store, say: Say) -> None:
    """What is leased as well, which must be refused."""
    if store.evict(HELD.digest, "test"):
        say("evicted though leased", HELD.digest.hex)
    if store.evict(NEW.digest, "test"):
        say("removed", NEW.digest.hex)


def _mend(store: Store, say: Say) -> None:
    if _condemn(store, BLOB) is not None:
        say("condemned", BLOB.hex)
    say("ready", fetch(store, NEW).hex)


def _condemn(store: Store, blob: Digest) -> list[Digest] | None:
    """A check has read it, and found its first piece to be wrong."""
    return store.condemn(blob, Checkup("damaged pieces 0", (0,), seen=identity(str(store.blobs.path(blob)))))


def _lose_index(root: Path) -> None:
    for path in root.glob("index.db*"):
        path.unlink()


def _old_index(root: Path) -> None:
    """The same rows in the tables of the first migration."""
    old = root / "index.old"
    with sqlite3.connect(old, isolation_level=None) as db:
        later = [migration.name for migration in schema.migrations.pending(schema.Database(db))][1:]
        schema.migrations.apply(schema.Database(db), stop_before=later)
        db.execute("ATTACH ? AS new", (str(Layout(root).index),))
        names = "SELECT name FROM main.sqlite_master WHERE type = 'table' AND name NOT LIKE '\\_%' ESCAPE '\\'"
        for (table,) in db.execute(names).fetchall():
            columns = ", ".join(row[1] for row in db.execute(f"PRAGMA main.table_info({table})"))
            db.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}")
    db.close()
    _lose_index(root)
    old.rename(Layout(root).index)


def _layout_1(root: Path) -> None:
    """Index, FORMAT and manifests are everybody's to open, and the manifests are what leases lock."""
    layout = Layout(root)
    layout.format.write_text("1\n")
    for path in [layout.format, *root.glob("index.db*")]:
        path.chmod(0o644)
    for path in layout.snapshots.glob("*.json"):
        path.chmod(0o444)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("publish", held, _publish),
        Scenario("import", held, _import),
        Scenario("park", held, _park),
        Scenario("resume", _parked, _publish),
        Scenario("evict", held_and_new, _evict),
        Scenario("mend", _damaged, _mend, planted={BLOB: Digest.of(DAMAGED)}, aside=(BLOB.hex,)),
        Scenario("start", _pinned, None, kept=(HELD, NEW), pinned=(NEW,)),
        Scenario("rebuild", held_and_new, None, _lose_index, kept=(HELD, NEW), aside=("index.db",)),
        Scenario("migrate", _pinned, None, _old_index, kept=(HELD, NEW), pinned=(NEW,)),
        Scenario("upgrade", _pinned, None, _layout_1, kept=(HELD, NEW), pinned=(NEW,)),
    )
}
