from __future__ import annotations

import os
from pathlib import Path

import pytest

from cached.errors import DigestMismatch
from cached.model import Checksum, Digest, Entry
from cached.store.blobs.small_ingest import SmallIngest

DATA = os.urandom(5000)


def ingest(folder: Path, digest: Digest | None = None, *checksums: Checksum) -> SmallIngest:
    return SmallIngest(str(folder / "a.part"), Entry("a.json", len(DATA), "v1", digest, checksums), memoryview(DATA))


def test_what_was_promised_is_written_and_nobody_may_write_to_it_again(tmp_path: Path) -> None:
    verified = ingest(tmp_path, Digest.of(DATA)).sync()
    assert (verified.digest, verified.size, len(verified.pieces)) == (Digest.of(DATA), len(DATA), 16)
    assert (tmp_path / "a.part").read_bytes() == DATA
    assert (tmp_path / "a.part").stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize(
    ("digest", "checksums"), [(Digest.of(b"another"), ()), (None, (Checksum("git-sha1", "0" * 40),))]
)
def test_what_was_not_promised_is_not_even_written(
    tmp_path: Path, digest: Digest | None, checksums: tuple[Checksum, ...]
) -> None:
    with pytest.raises(DigestMismatch):
        ingest(tmp_path, digest, *checksums)
    assert list(tmp_path.iterdir()) == []


def test_one_that_was_ready_and_never_published_is_written_over(tmp_path: Path) -> None:
    ingest(tmp_path).sync()
    assert ingest(tmp_path).sync().digest == Digest.of(DATA)
