"""file://: links, special files and files that change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cached.access import Credentials
from cached.config import Config
from cached.errors import InvalidRequest, SourceChanged
from cached.model import Listing
from cached.model_ref import ModelRef
from cached.sources.local_files import LocalSource

NOBODY = Credentials()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "models" / "llama").mkdir(parents=True)
    (tmp_path / "models" / "llama" / "w.bin").write_bytes(b"0123456789")
    return tmp_path / "models"


@pytest.fixture
def source(root: Path) -> LocalSource:
    return LocalSource(Config(file_roots=(str(root),)))


def resolve(source: LocalSource, folder: Path) -> Listing:
    return source.resolve(ModelRef.parse(f"file://{folder}"), NOBODY, 5)


def test_links_within_the_folders_are_files(root: Path, source: LocalSource) -> None:
    (root / "blob").write_bytes(b"shared")
    (root / "llama" / "linked.bin").symlink_to("../blob")
    listing = resolve(source, root / "llama")
    entry = next(entry for entry in listing.entries if entry.path == "linked.bin")
    assert source.open(listing, entry, NOBODY).read(0, 6) == b"shared"


def test_link_that_leads_out_is_refused(root: Path, source: LocalSource) -> None:
    (root / "llama" / "shadow.json").symlink_to("/etc/passwd")
    with pytest.raises(InvalidRequest, match="leads out"):
        resolve(source, root / "llama")


def test_link_that_is_swapped_after_the_listing_is_not_followed_out(root: Path, source: LocalSource) -> None:
    listing = resolve(source, root / "llama")
    (root / "llama" / "w.bin").unlink()
    (root / "llama" / "w.bin").symlink_to("/etc/passwd")
    with pytest.raises(SourceChanged, match="a link elsewhere"):
        source.open(listing, listing.entries[0], NOBODY).read(0, 10)


def test_folder_that_is_swapped_for_a_link_is_not_followed_out(root: Path, source: LocalSource, tmp_path: Path) -> None:
    listing = resolve(source, root / "llama")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "w.bin").write_bytes(b"0123456789")
    (root / "llama").rename(root / "gone")
    (root / "llama").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SourceChanged):
        source.open(listing, listing.entries[0], NOBODY).read(0, 10)


def test_pipes_and_sockets_are_no_model_files(root: Path, source: LocalSource) -> None:
    os.mkfifo(root / "llama" / "pipe")
    assert [entry.path for entry in resolve(source, root / "llama").entries] == ["w.bin"]


def test_replaced_file_stays_readable_and_a_written_one_is_noticed(root: Path, source: LocalSource) -> None:
    listing = resolve(source, root / "llama")
    reader = source.open(listing, listing.entries[0], NOBODY)
    assert reader.read(0, 5) == b"01234"
    (root / "llama" / "fresh").write_bytes(b"abcdefghij")
    (root / "llama" / "fresh").rename(root / "llama" / "w.bin")
    assert reader.read(5, 5) == b"56789"
    reader.close()
    with pytest.raises(SourceChanged):
        source.open(listing, listing.entries[0], NOBODY).read(5, 5)


def test_readers_close_their_descriptors(root: Path, source: LocalSource) -> None:
    listing = resolve(source, root / "llama")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        reader = source.open(listing, listing.entries[0], NOBODY)
        reader.read(0, 1)
        reader.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_percent_in_a_uri_is_decoded(root: Path, source: LocalSource) -> None:
    (root / "with blank").mkdir()
    (root / "with blank" / "config.json").write_bytes(b"{}")
    ref = ModelRef.parse(f"file://{root}/with%20blank")
    assert [entry.path for entry in source.resolve(ref, NOBODY, 5).entries] == ["config.json"]
