"""What the page cache has of a file, by util-linux's word; and making it forget."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def on_a_disk() -> Iterator[Path]:
    """A folder below /var/tmp, which is no tmpfs where /tmp is one: from memory nothing can be dropped."""
    with tempfile.TemporaryDirectory(prefix="cached-", dir="/var/tmp") as folder:
        yield Path(folder)


def forget(path: Path) -> None:
    """Drop its pages, written to the disk first where they were not."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def forget_all(paths: Sequence[Path], seconds: float = 10.0) -> None:
    """RuntimeError when more than a hundredth of them stays. Tried for so long: pages that somebody reads at the moment
    cannot be dropped, and a loader's threads may end after it has its last tensor."""
    end, most = time.monotonic() + seconds, sum(path.stat().st_size for path in paths) / 100
    while True:
        for path in paths:
            forget(path)
        left = sum(map(resident, paths))
        if left <= most:
            return
        if time.monotonic() > end:
            raise RuntimeError(f"{left} bytes of {paths[0].parent} stayed in the page cache")
        time.sleep(0.05)  # Polling a condition, with a deadline.


def resident(path: Path) -> int:
    """Bytes of it that are there, in whole pages."""
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES", str(path)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
