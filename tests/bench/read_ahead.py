"""How far the kernel reads ahead on a device, and a device where that is another number."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench.case import LeftOut

LINUX_KIB = 128  # What Linux gives a device unless somebody has set it.


def read_ahead_kib(path: Path) -> int:
    """Of the device that a path is on; 0 when the kernel does not say."""
    device = path.stat().st_dev
    try:
        return int(Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb").read_text())
    except OSError:
        return 0


@contextmanager
def device_with_read_ahead(folder: Path, size: int, kib: int) -> Iterator[Path]:
    """An ext4 of `size` bytes in a file of the same disk, read past that disk's page cache. LeftOut unless root."""
    if os.geteuid():
        raise LeftOut("a loop device needs root")
    folder.mkdir()
    image, place = folder / "image", folder / "mounted"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(size)
    with ExitStack() as stack:
        stack.callback(image.unlink)
        _run("mkfs.ext4", "-q", "-m", "0", str(image))
        device = _run("losetup", "--find", "--show", "--direct-io=on", str(image)).strip()
        stack.callback(_run, "losetup", "--detach", device)
        _run("blockdev", "--setra", str(kib * 2), device)
        _run("mount", device, str(place))
        stack.callback(_run, "umount", "--lazy", str(place))
        yield place


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise LeftOut(f"{command[0]} failed: {done.stderr.strip()}")
    return done.stdout
