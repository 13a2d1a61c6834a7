"""Names under the root that are not ours."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from cached.store.startup import strays

from .harm import MODEL, OpenStore, W, aside, is_whole, make_stray
from .stored import add, files

STRAYS = [
    "blobs/stray",
    "blobs/zz",
    "blobs/ab/stray",
    "blobs/ab/" + "cd" * 32,
    "blobs/ab/" + "ab" * 31 + "a",
    "blobs/ab/" + "AB" * 32,
    "blobs/ab/" + "ab" * 32,
    "blobs/ab/" + "ab" * 32 + ".pieces",
    "snapshots/stray",
    "snapshots/stray.json",
    "snapshots/" + "ab" * 32,
    "snapshots/" + "ab" * 32 + ".json",
    "ingest/stray",
    "ingest/" + "ab" * 32 + ".part",
    "ingest/" + "ab" * 32 + ".pieces",
    "trash/stray",
    "FORMAT.12345",
    os.fsdecode(b"blobs/\xff\xfe"),
]


@pytest.mark.parametrize("kind", ["file", "directory", "link", "fifo"])
@pytest.mark.parametrize("name", STRAYS, ids=lambda name: os.fsencode(name).decode(errors="replace")[:20])
def test_what_nobody_put_there_is_gone_after_a_start(name: str, kind: str, open_store: OpenStore) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    before = files(store)
    path = store.layout.root / name
    make_stray(path, kind)
    store = open_store()
    assert not os.path.lexists(path)
    assert Path("/etc/passwd").exists()
    assert is_whole(store, manifest, MODEL) and files(store) == before
    assert open_store().recovered.changed == {}


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_folder_of_blobs_that_is_none_is_put_aside_and_made_again(kind: str, open_store: OpenStore) -> None:
    store = open_store()
    store.close()
    folder = store.layout.blobs / W.hex[:2]
    folder.rmdir()
    make_stray(folder, kind)
    store = open_store()
    assert is_whole(store, add(store, "m", MODEL), MODEL)
    assert [path.name[:2] for path in aside(store)] == [W.hex[:2]]


def test_what_lies_in_quarantine_and_beside_our_folders_is_the_operators(
    open_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store()
    theirs = [store.layout.root / "notes.txt", store.layout.quarantine / "stray"]
    for path in theirs:
        path.write_bytes(b"mine")
    caplog.set_level(logging.WARNING)
    store = open_store()
    assert all(path.exists() for path in theirs)
    assert [vars(line)["stray"] for line in caplog.records if line.message == "store.stray"] == ["notes.txt"]
    assert store.recovered.strays_left == 1


def test_strays_are_logged_by_name_and_not_without_end(open_store: OpenStore, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store()
    for number in range(strays.LOGGED + 30):
        (store.layout.snapshots / f"stray {number:02}").touch()
    caplog.set_level(logging.WARNING)
    store = open_store()
    said = [vars(line)["stray"] for line in caplog.records if line.message == "store.stray"]
    assert len(said) == strays.LOGGED + 1 and said[0].startswith("snapshots/stray ")
    assert store.recovered.strays_removed == strays.LOGGED + 30


def test_what_cannot_be_removed_keeps_nobody_from_starting(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    (store.layout.snapshots / "immovable").touch()
    rename = os.rename

    def refuse(source: str | Path, target: str | Path) -> None:
        if "immovable" in str(source):
            raise PermissionError(1, "Operation not permitted")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    store = open_store()
    assert is_whole(store, manifest, MODEL)
    assert store.recovered.strays_left == 1
