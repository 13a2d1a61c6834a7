"""What a person, a program or a failing disk does to a root while no daemon runs, and what is to be seen afterwards."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

from cached.model import PIECE_BYTES, Digest, Manifest
from cached.store.store import Store

OpenStore = Callable[[], Store]


W = Digest.of(b"weights")


MODEL = {"config.json": b"{}", "deep/er/w": b"weights"}


LARGE = os.urandom(PIECE_BYTES + 1000)


def sql(store: Store, statement: str, *parameters: object) -> None:
    """Behind the store's back, as damage would come."""
    with sqlite3.connect(store.layout.index) as db:
        db.execute(statement, parameters)


def rows(store: Store) -> dict[str, list[tuple[object, ...]]]:
    tables = ("blob", "snapshot", "snapshot_blob", "resolution", "identity", "pin", "fill", "reservation", "event")
    return {table: [tuple(row) for row in store.index.query(f"SELECT * FROM {table}")] for table in tables}


def tree(store: Store) -> dict[str, tuple[int, int]]:
    found = {}
    for path in store.layout.root.rglob("*"):
        if not path.name.startswith("index.db"):
            status = path.lstat()
            found[str(path.relative_to(store.layout.root))] = (status.st_ino, status.st_mode)
    return found


def aside(store: Store) -> list[Path]:
    """What lies in quarantine, but for what is said of its pieces."""
    return sorted(path for path in store.layout.quarantine.iterdir() if path.suffix != ".pieces")


def name_in(store: Store, manifest: Manifest, path: str) -> Path:
    """A name in a snapshot's directory, in a folder that may be written to."""
    name = store.snapshots.path(manifest.digest) / path
    for folder in (name.parent, *name.parent.parents):
        if folder == store.layout.snapshots:
            break
        folder.chmod(0o755)
    return name


def close_folders(store: Store, manifest: Manifest) -> None:
    """As they were before a test opened them, so that nothing is seen by their modes."""
    place = store.snapshots.path(manifest.digest)
    for folder in (place, *place.rglob("*")):
        if folder.is_dir() and not folder.is_symlink():
            folder.chmod(0o555)


def is_whole(store: Store, manifest: Manifest, content: dict[str, bytes]) -> bool:
    """What its callers are promised: it is handed out, and every name has the right bytes and shares its blob."""
    place = store.snapshots.path(manifest.digest)
    found = {str(p.relative_to(place)): p for p in place.rglob("*") if not p.is_dir() or p.is_symlink()}
    return (
        bool(store.index.query("SELECT 1 FROM snapshot WHERE digest = ? AND state = 'ready'", (manifest.digest.hex,)))
        and {name: path.read_bytes() for name, path in found.items()} == content
        and all(found[f.path].lstat().st_ino == store.blobs.path(f.digest).stat().st_ino for f in manifest.files)
        and all(stat.S_IMODE(path.stat().st_mode) == 0o444 for path in found.values())
        and all(stat.S_IMODE(folder.stat().st_mode) == 0o555 for folder in (place, *(p.parent for p in found.values())))
    )


def state(store: Store, manifest: Manifest) -> str | None:
    found = store.index.query("SELECT state FROM snapshot WHERE digest = ?", (manifest.digest.hex,))
    return found[0]["state"] if found else None


# What a person, a program or a failing disk does to a root while no daemon runs. Each leaves every byte somewhere.
def lose_blob(store: Store, manifest: Manifest) -> None:
    store.blobs.path(W).unlink()


def link_blob_elsewhere(store: Store, manifest: Manifest) -> None:
    store.blobs.path(W).unlink()
    store.blobs.path(W).symlink_to("/etc/passwd")


def make_blob_a_directory(store: Store, manifest: Manifest) -> None:
    store.blobs.path(W).unlink()
    store.blobs.path(W).mkdir()


def replace_blob_by_a_shorter_one(store: Store, manifest: Manifest) -> None:
    store.blobs.path(W).unlink()
    store.blobs.path(W).write_bytes(b"short")


def replace_blob_by_another(store: Store, manifest: Manifest) -> None:
    store.blobs.path(W).unlink()
    store.blobs.path(W).write_bytes(b"wEights")


def lose_name(store: Store, manifest: Manifest) -> None:
    name_in(store, manifest, "deep/er/w").unlink()


def lose_folder(store: Store, manifest: Manifest) -> None:
    shutil.rmtree(name_in(store, manifest, "deep"))


def lose_directory(store: Store, manifest: Manifest) -> None:
    shutil.rmtree(name_in(store, manifest, "deep").parent)


def replace_directory_by_a_file(store: Store, manifest: Manifest) -> None:
    lose_directory(store, manifest)
    store.snapshots.path(manifest.digest).write_bytes(b"?")


def replace_name_by_other_bytes(store: Store, manifest: Manifest) -> None:
    name = name_in(store, manifest, "deep/er/w")
    name.unlink()
    name.write_bytes(b"wEights")


def replace_name_by_a_copy(store: Store, manifest: Manifest) -> None:
    name = name_in(store, manifest, "deep/er/w")
    name.unlink()
    name.write_bytes(b"weights")


def replace_name_by_a_link(store: Store, manifest: Manifest) -> None:
    name = name_in(store, manifest, "deep/er/w")
    name.unlink()
    name.symlink_to(store.blobs.path(W))


def replace_name_by_a_directory(store: Store, manifest: Manifest) -> None:
    name = name_in(store, manifest, "deep/er/w")
    name.unlink()
    name.mkdir()
    (name / "x").write_bytes(b"x")


def replace_folder_by_a_file(store: Store, manifest: Manifest) -> None:
    folder = name_in(store, manifest, "deep/er")
    shutil.rmtree(folder)
    folder.write_bytes(b"x")


def add_a_foreign_name(store: Store, manifest: Manifest) -> None:
    name_in(store, manifest, "deep/model.safetensors").write_bytes(b"for loaders to find")


def add_a_foreign_folder(store: Store, manifest: Manifest) -> None:
    name_in(store, manifest, "__pycache__").mkdir()


def open_folders_up(store: Store, manifest: Manifest) -> None:
    name_in(store, manifest, "deep/er/w").parent.chmod(0o777)


def close_blob(store: Store, manifest: Manifest) -> None:
    store.blobs.path(W).chmod(0o600)


def garble_manifest(store: Store, manifest: Manifest) -> None:
    store.snapshots.manifest(manifest.digest).chmod(0o644)
    store.snapshots.manifest(manifest.digest).write_bytes(b'{"files": [')


def lose_manifest(store: Store, manifest: Manifest) -> None:
    store.snapshots.manifest(manifest.digest).unlink()


def make_manifest_a_directory(store: Store, manifest: Manifest) -> None:
    lose_manifest(store, manifest)
    store.snapshots.manifest(manifest.digest).mkdir()


def touch_blob(store: Store, manifest: Manifest) -> None:
    os.utime(store.blobs.path(W))


def lose_index(store: Store, manifest: Manifest) -> None:
    for suffix in ("", "-wal", "-shm"):
        store.layout.index.with_name(f"index.db{suffix}").unlink(missing_ok=True)


def lose_index_but_not_its_log(store: Store, manifest: Manifest) -> None:
    lose_index(store, manifest)
    store.layout.index.with_name("index.db-wal").write_bytes(b"\x37\x7f\x06\x82" + bytes(4096))


def link_index_elsewhere(store: Store, manifest: Manifest) -> None:
    lose_index(store, manifest)
    store.layout.index.symlink_to("/etc/passwd")


def make_index_a_directory(store: Store, manifest: Manifest) -> None:
    lose_index(store, manifest)
    store.layout.index.mkdir()


def empty_index(store: Store, manifest: Manifest) -> None:
    lose_index(store, manifest)
    store.layout.index.touch()


def garble_index(store: Store, manifest: Manifest) -> None:
    lose_index(store, manifest)
    store.layout.index.write_bytes(b"not a database" * 1000)


def lose_both(store: Store, manifest: Manifest) -> None:
    lose_blob(store, manifest)
    lose_name(store, manifest)


def write_to_blob(store: Store, manifest: Manifest) -> None:
    store.blobs.path(W).chmod(0o644)
    store.blobs.path(W).write_bytes(b"wEights")


def truncate_blob(store: Store, manifest: Manifest) -> None:
    store.blobs.path(W).chmod(0o644)
    os.truncate(store.blobs.path(W), 3)


def park(store: Store, key: str, size: int) -> None:
    """A download that broke off."""
    assert store.index.begin("s3://b/x", {key: size}, [], 1 << 40) is not None
    with (store.layout.ingest / f"{key}.part").open("wb") as part:
        part.truncate(size)


def make_stray(path: Path, kind: str) -> None:
    if kind == "file":
        path.write_bytes(b"stray")
    elif kind == "directory":
        (path / "deep").mkdir(parents=True)
        (path / "deep/file").write_bytes(b"stray")
        (path / "link").symlink_to("/etc")
        (path / "deep").chmod(0o000)
        path.chmod(0o555)
    elif kind == "link":
        path.symlink_to("/etc/passwd")
    else:
        os.mkfifo(path)
