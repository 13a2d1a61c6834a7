"""The models that are fetched, and where they lie: on tmpfs where it has room, so that no disk is measured."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.bench.ballast import steady_memory

MIB = 1 << 20
SPARE = 2 << 30  # Left free for everything else.
MEMORY = Path("/dev/shm")


def small_sizes(count: int = 2000) -> list[int]:
    dice = random.Random(1)
    return [dice.randint(4 << 10, 64 << 10) for _ in range(count)]


def name_of(number: int) -> str:
    return f"model-{number:05}.safetensors"


def write(folder: Path, sizes: Sequence[int]) -> None:
    """Different bytes in every file and in every piece of it, made quickly."""
    folder.mkdir(parents=True)
    block = os.urandom(MIB)
    for number, size in enumerate(sizes):
        with (folder / name_of(number)).open("wb") as file:
            for start in range(0, size, MIB):
                head = f"{number} {start} ".encode()
                file.write((head + block[len(head) :])[: min(MIB, size - start)])


def write_sparse(folder: Path, sizes: Sequence[int]) -> None:
    """Different files that take no room: a few bytes and a hole."""
    folder.mkdir(parents=True)
    for number, size in enumerate(sizes):
        with (folder / name_of(number)).open("wb") as file:
            file.write(f"{size} {number} ".encode())
            file.truncate(size)


@contextmanager
def scratch(need: int) -> Iterator[Path]:
    """A folder with room for `need` bytes, in memory if there is enough; removed afterwards. OSError without room."""
    memory = MEMORY if _in_memory() > need + SPARE else None
    with tempfile.TemporaryDirectory(prefix="cached-bench-", dir=memory, ignore_cleanup_errors=True) as name:
        if shutil.disk_usage(name).free < need + SPARE:
            raise OSError(f"{need / 1e9:.0f} GB are needed, and neither {MEMORY} nor {Path(name).parent} has them")
        with steady_memory(need if memory else 0):
            yield Path(name)


def on_tmpfs(folder: Path) -> bool:
    return MEMORY in folder.parents


def _in_memory() -> int:
    if not MEMORY.is_dir():
        return 0
    return min(shutil.disk_usage(MEMORY).free, available_memory())


def available_memory() -> int:
    """Bytes that could be taken without anything being pushed out of memory but files."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
