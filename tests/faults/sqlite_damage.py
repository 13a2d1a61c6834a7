"""F15: bytes of the index that are not what was written, in every file and every kind of cell.

A start must come of it: with every model whose files are sound, with nothing in the index that was not true before,
and so that the next start finds nothing to do.
"""

from __future__ import annotations

import functools
import os
import random
import re
import shutil
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from fnmatch import fnmatchcase
from pathlib import Path

from tests.faults.holdings import Library, texts
from tests.faults.points import Finding, Point, Tally
from tests.faults.roots import copy_root, remove_root
from tests.faults.spread import spread
from tests.faults.sqlite_audit import audit, refused
from tests.faults.suite import Context, Suite

Damage = Callable[[Path, random.Random], None]  # Of the root, by chance that is the same every time.

PAGE = 4096
_EACH = 8  # Points of each kind of cell.


def run(context: Context, kinds: str = "*") -> Tally:
    """`kinds`: a pattern of what is damaged."""
    library = Library.build(context.folder)
    damages = {point: damage for point, damage in _damages(library) if fnmatchcase(point.fault, kinds)}
    points = context.some(list(damages), lambda point: point.fault)
    tally = Tally("F15", "SQLITE bytes", "damaged indexes")
    strike = functools.partial(_strike, library, damages, context.folder)
    try:
        for point, found in zip(points, spread(points, strike, context.workers), strict=True):
            tally.add(point, found)
    finally:
        for root in (library.stopped, library.killed):
            remove_root(root)
    return tally


SUITE = Suite("F15", "SQLITE bytes", run)


def _strike(library: Library, damages: dict[Point, Damage], folder: Path, point: Point) -> list[Finding]:
    root = folder / f"struck.{os.getpid()}"
    copy_root(library.killed if point.scenario == "killed" else library.stopped, root)
    try:
        damages[point](root, random.Random(f"{point}"))
        return refused(root) if point.fault == "newer" else audit(root, library)
    finally:
        remove_root(root)


def _damages(library: Library) -> Iterator[tuple[Point, Damage]]:
    index = (library.stopped / "index.db").read_bytes()
    log = (library.killed / "index.db-wal").read_bytes()
    yield from _kind("stopped", "header", [functools.partial(flip, "index.db", at, 1) for at in range(100)])
    yield from _kind("stopped", "page", _pages(len(index)))
    for (table, column), places in _cells(library, index).items():
        flips = [functools.partial(flip, "index.db", start, length) for start, length in places]
        yield from _kind("stopped", f"cell {table}.{column}", flips)
    yield from _kind("killed", "log", _log(len(log)))
    yield from _kind(
        "killed", "shm", [functools.partial(overwrite, "index.db-shm", size) for size in (0, 1, 136, 32768)]
    )
    yield from _kind("stopped", "length", [functools.partial(truncate, "index.db", at) for at in _lengths(len(index))])
    whole = [delete, make_directory, link_elsewhere, link_in_a_loop, delete_log, log_of_nothing, garble]
    for scenario in ("stopped", "killed"):
        yield from _kind(scenario, "whole", [*whole, functools.partial(go_back, library.old_index)])
    yield from _kind("stopped", "newer", [from_a_newer_version])


def _kind(scenario: str, fault: str, damages: list[Damage]) -> Iterator[tuple[Point, Damage]]:
    for nth, damage in enumerate(damages):
        function = getattr(damage, "func", damage)
        yield Point(scenario, fault, nth, getattr(function, "__name__", "")), damage


def _pages(length: int) -> list[Damage]:
    count = length // PAGE
    flips = [functools.partial(flip, "index.db", 0, length) for _ in range(60)]
    heads = [functools.partial(flip, "index.db", page * PAGE, 8) for page in range(1, count, max(1, count // 20))]
    wiped = [functools.partial(wipe, page) for page in range(0, count, max(1, count // 20))]
    return [*flips, *heads, *wiped, *[functools.partial(swap, count) for _ in range(15)]]


def _cells(library: Library, index: bytes) -> dict[tuple[str, int], list[tuple[int, int]]]:
    """Where some values of each column stand in the file, wherever SQLite has put them."""
    chance, places = random.Random(15), {}  # type: tuple[random.Random, dict[tuple[str, int], list[tuple[int, int]]]]
    cells = list(texts(library.rows))
    chance.shuffle(cells)
    for table, column, value in cells:
        found = places.setdefault((table, column), [])
        written = _written(value)
        everywhere = [match.start() for match in re.finditer(re.escape(written), index)] if written else []
        if len(found) < _EACH and everywhere:  # A ref stands in several tables, and in their indexes.
            found.append((chance.choice(everywhere), len(written)))
    return places


def _written(value: object) -> bytes:
    """What SQLite writes for it; empty for numbers so short that they stand everywhere."""
    if isinstance(value, str):
        return value.encode() if len(value) > 3 else b""
    if isinstance(value, bytes):
        return value
    if isinstance(value, float) and value != int(value):
        return struct.pack(">d", value)
    return struct.pack(">q", value) if isinstance(value, int) and abs(value) >= 1 << 47 else b""


def _log(length: int) -> list[Damage]:
    frame = PAGE + 24
    cuts = [32 + frame * number + extra for number in range(0, length // frame, 2) for extra in (0, 24, 2000)]
    truncated = [functools.partial(truncate, "index.db-wal", at) for at in (0, 1, 31, *cuts[:30])]
    torn = [functools.partial(tear, at) for at in cuts[:12]]
    return [*truncated, *torn, *[functools.partial(flip, "index.db-wal", 0, n) for n in [32, 56, *[length] * 30]]]


def _lengths(length: int) -> list[int]:
    return [0, 1, 16, 99, 100, 512, PAGE, *range(2 * PAGE, length, max(PAGE, length // 10 // PAGE * PAGE)), length - 1]


# What happens to the bytes.


def flip(name: str, start: int, length: int, root: Path, chance: random.Random) -> None:
    """One bit somewhere in there."""
    with (root / name).open("r+b") as file:
        at = start + chance.randrange(length)
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([(byte[0] if byte else 0) ^ 1 << chance.randrange(8)]))


def wipe(page: int, root: Path, chance: random.Random) -> None:
    with (root / "index.db").open("r+b") as file:
        file.seek(page * PAGE)
        file.write(chance.choice([bytes(PAGE), chance.randbytes(PAGE), chance.randbytes(64)]))


def swap(count: int, root: Path, chance: random.Random) -> None:
    """Two pages were written to each other's place."""
    one, two = chance.sample(range(1, count), 2)
    with (root / "index.db").open("r+b") as file:
        pages = []
        for page in (one, two):
            file.seek(page * PAGE)
            pages.append(file.read(PAGE))
        for page, data in zip((two, one), pages, strict=True):
            file.seek(page * PAGE)
            file.write(data)


def truncate(name: str, length: int, root: Path, chance: random.Random) -> None:
    os.truncate(root / name, length)


def tear(at: int, root: Path, chance: random.Random) -> None:
    """The log keeps its length, and its end was never written."""
    path = root / "index.db-wal"
    length = path.stat().st_size
    os.truncate(path, min(at, length))
    os.truncate(path, length)


def overwrite(name: str, size: int, root: Path, chance: random.Random) -> None:
    (root / name).write_bytes(chance.randbytes(size))


def delete(root: Path, chance: random.Random) -> None:
    """And a log, where there is one, is left."""
    (root / "index.db").unlink()


def delete_log(root: Path, chance: random.Random) -> None:
    (root / "index.db-wal").unlink(missing_ok=True)


def log_of_nothing(root: Path, chance: random.Random) -> None:
    (root / "index.db-wal").write_bytes(chance.randbytes(3 * PAGE))


def make_directory(root: Path, chance: random.Random) -> None:
    delete(root, chance)
    (root / "index.db/deep").mkdir(parents=True)


def link_elsewhere(root: Path, chance: random.Random) -> None:
    delete(root, chance)
    (root / "index.db").symlink_to("/etc/passwd")


def link_in_a_loop(root: Path, chance: random.Random) -> None:
    delete(root, chance)
    (root / "index.db").symlink_to("index.db")


def garble(root: Path, chance: random.Random) -> None:
    (root / "index.db").write_bytes(chance.randbytes(10 * PAGE))


def go_back(old: Path, root: Path, chance: random.Random) -> None:
    """Somebody restored the index from a backup; the log of the newer one may lie beside it."""
    shutil.copyfile(old, root / "index.db")


def from_a_newer_version(root: Path, chance: random.Random) -> None:
    with closing(sqlite3.connect(root / "index.db")) as db, db:
        names = "SELECT 99, migration_set, 'from_the_future', applied_at FROM _sqlite_migrations LIMIT 1"
        db.execute(f"INSERT INTO _sqlite_migrations {names}")
