"""What a start makes of a damaged index: everything that the disk has, nothing that was never true, and then rest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from cached.access import Access
from cached.errors import CachedError, StoreDegraded
from cached.model import Digest
from cached.store.blobs.verify import check
from cached.store.index.resolutions import whose
from cached.store.store import Store
from tests.faults.holdings import HELD, Library, Rows, blobs_of, rows_of
from tests.faults.models import open_store, sha256
from tests.faults.points import RULE, Finding
from tests.faults.roots import tree


def audit(root: Path, library: Library) -> list[Finding]:
    """Of two starts, one after the other."""
    before = _files(root)
    try:
        with closing(open_store(root)) as store:
            found = [*_models(store), *_true(store, library.rows), *_space(store)]
            rows, after = rows_of(store), tree(root)
            if _files(root) != before:
                found.append(Finding("I2", "files were touched, and it was the index that was damaged"))
        with closing(open_store(root)) as store:
            if store.recovered.changed or store.recovered.index != "kept":
                found.append(Finding("I7", f"the second start found {store.recovered.changed} to do"))
            if (rows_of(store), tree(root)) != (rows, after):
                found.append(Finding("I7", "the second start changed something"))
    except CachedError as error:
        return [Finding("I7", f"it does not start: {error.message}")]
    except Exception as error:
        return [Finding(RULE, f"an error that has no name: {error!r}")]
    return found


def refused(root: Path) -> list[Finding]:
    """In a sentence, and left as it was for the version that wrote it."""
    before = (root / "index.db").read_bytes()
    try:
        open_store(root).close()
    except StoreDegraded as error:
        if "newer cached" not in error.message:
            return [Finding(RULE, f"it is refused without saying why: {error.message}")]
    else:
        return [Finding(RULE, "a newer index was opened")]
    return [] if (root / "index.db").read_bytes() == before else [Finding(RULE, "a newer index was changed")]


def _files(root: Path) -> dict[str, tuple[int, int, int]]:
    """Inodes, sizes and modes of blobs, snapshots and manifests."""
    return {name: what for name, what in tree(root).items() if name.startswith(("blobs/", "snapshots/"))}


def _models(store: Store) -> Iterator[Finding]:
    for model in HELD:
        known = store.index.find(model.ref)
        if known is None or known.snapshot != model.digest:
            yield Finding("I3", f"{model.name} is on the disk, and is not handed out")
        elif known.size != model.manifest.size or known.checked_at > time.time():
            yield Finding(RULE, f"{model.name} is handed out with what is not true: {known}")
        for file in model.manifest.files:
            if sha256(store.snapshots.path(model.digest) / file.path) != file.digest.hex:
                yield Finding("I1", f"{model.name}/{file.path} has other bytes")


def _true(store: Store, true: Rows) -> Iterator[Finding]:
    """No row says what was never so."""
    rows = rows_of(store)
    refs = {_meaning(row) for row in true["resolution"]}
    # Whose a name is that is read from a manifest nobody knows, unless its place is open.
    refs |= {_meaning(row, whose(Access.parse(str(row[7])))) for row in true["resolution"]}
    yield from (
        Finding("I1", f"a ref means what it never meant: {_meaning(r)}")
        for r in rows["resolution"]
        if _meaning(r) not in refs
    )
    if len({row[0] for row in rows["resolution"]}) < len(rows["resolution"]):
        yield Finding(RULE, "a ref that had one meaning has several")
    known = {row[:2] for row in true["identity"]}
    yield from (
        Finding("I1", f"a remote file is what it never was: {r[:2]}") for r in rows["identity"] if r[:2] not in known
    )
    snapshots = {row[0]: row[1:7] for row in true["snapshot"]}
    for digest, *rest in rows["snapshot"]:
        if tuple(rest[:6]) != snapshots.get(digest):
            yield Finding(RULE, f"the row of {str(digest)[:12]} is not true: {rest}")
    if sorted(rows["snapshot_blob"]) != sorted(true["snapshot_blob"]):
        yield Finding("I4", "snapshots have other blobs than they had")
    pins = {row[0] for row in true["pin"]}
    found = {row[0] for row in rows["pin"]}
    # Where the index was rebuilt some may be lost; all are where it is of before they were made.
    if found - pins or (found and found != pins and store.recovered.index == "kept"):
        yield Finding(RULE, f"{len(found ^ pins)} pins are lost or were never made")
    late = [row for row in rows["snapshot"] if max(row[7], row[8]) > time.time()]  # type: ignore[type-var]
    yield from (Finding("I7", f"{row[0]} is of tomorrow") for row in late)


def _meaning(row: tuple[object, ...], who: object = None) -> tuple[object, ...]:
    """Of a ref, to whom its row says, or to `who`: all but when it was asked."""
    ref, whom, source, revision, snapshot, _, _, access = row
    return ref, whom if who is None else who, source, revision, snapshot, access


def _space(store: Store) -> Iterator[Finding]:
    blobs = blobs_of(HELD)
    usage = store.usage()
    if (usage.used, usage.reserved) != (sum(blobs.values()), 0):
        yield Finding("I5", f"{usage.used} bytes are accounted for instead of {sum(blobs.values())}")
    for row in store.index.query("SELECT * FROM blob"):
        digest = Digest(row["digest"])
        path = store.blobs.path(digest)
        if row["damaged"] or row["size"] != blobs.get(digest) or row["mtime_ns"] != path.stat().st_mtime_ns:
            yield Finding(RULE, f"the row of the blob {digest.hex[:12]} is not true")
        if check(str(path), digest, row["size"], row["pieces"], deep=False).problem is not None:
            yield Finding(RULE, f"the sound blob {digest.hex[:12]} would be condemned")
