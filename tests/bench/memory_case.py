"""Whether memory grows with the model: one, and one of a quarter of its size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree

from tests.bench.case import Case, Options
from tests.bench.data import MIB, on_tmpfs, scratch, write_sparse
from tests.bench.measure import pull
from tests.bench.report import Found, figures
from tests.bench.s3_cases import BUCKET, s3_server

FILES = 4
LIMIT = 1800.0  # Seconds; disks may be slow.


def _measure(options: Options) -> Found:
    size = int(options.memory_gib * 1024) * MIB
    with scratch(size) as folder:  # The origin's files are holes.
        return peaks(folder, (size // 4, size))


def peaks(folder: Path, sizes: Sequence[int]) -> Found:
    found = Found("S3, peak memory by the size of the model", 1, {}, place="tmpfs" if on_tmpfs(folder) else "disk")
    for size in sizes:  # All of them first: the server looks into its folder once.
        write_sparse(folder / "origin" / BUCKET / f"model-{size}", [size // FILES] * FILES)
    with s3_server(folder) as server:
        for size in sizes:
            target = folder / "target"
            target.mkdir()
            uri = f"s3://{BUCKET}/model-{size}"
            cost = pull(
                target, uri, size // FILES * FILES, server.credentials, limit=LIMIT, s3_endpoint=server.endpoint
            )
            rmtree(target)
            found.rows[f"cached, {size / 2**30:g} GiB"] = figures([cost], size)
    return found


MEMORY_CASE = Case("memory", _measure, long=True)
