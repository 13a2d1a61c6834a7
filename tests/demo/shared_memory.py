"""What engines that were killed leave in /dev/shm, up to 250 MB each: it goes with the Ray that they ran in."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path("/dev/shm")
_ENGINES = re.compile(r"psm_|sem\.mp-|\d+-.*cpushm_")  # multiprocessing's, and vLLM's own between its workers.


@contextlib.contextmanager
def swept(seconds: float = 10.0, folder: Path = FOLDER) -> Iterator[None]:
    """Remove what came during the block and nobody has mapped any more; who is still ending has that long.

    What other programs of this user made meanwhile, named the same way and left, goes too.
    """
    before = set(_present(folder))
    try:
        yield
    finally:
        _sweep(folder, before, seconds)


def _sweep(folder: Path, before: set[Path], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while left := [path for path in _present(folder) if path not in before]:
        mapped = _mapped(folder)
        for path in left:
            if str(path) not in mapped:
                path.unlink(missing_ok=True)
        if not any(str(path) in mapped for path in left) or time.monotonic() > deadline:
            return
        time.sleep(0.1)  # Polling a condition, with a deadline.


def _present(folder: Path) -> list[Path]:
    """Of this user, and named as engines name them."""
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if _ENGINES.match(path.name) and path.lstat().st_uid == os.getuid():
                found.append(path)
    return found


def _mapped(folder: Path) -> set[str]:
    """The files in that folder that processes have in their memory."""
    found: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):  # It ended meanwhile, or is somebody else's.
            found.update(re.findall(rf"{re.escape(str(folder))}/\S+", maps.read_text(errors="replace")))
    return found
