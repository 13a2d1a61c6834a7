"""A small disk of a test's own: ext4 on a loop device, which can be filled, fail like a broken one, and be mended."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.programs import program


class SmallDisk:
    """Mounted at `path` from the beginning of the block to its end. `inodes` is how many files there may be."""

    def __init__(self, folder: Path, size: int = 64 << 20, inodes: int = 1000) -> None:
        self.path = folder / "disk"
        self._image = folder / "disk.img"
        self._size, self._inodes = size, inodes

    def fail(self) -> None:
        """What ext4 does when the device fails: read-only from now on, whoever has something open for writing."""
        self._run("mount", "-o", "remount,abort", str(self.path))

    def mend(self) -> None:
        """Checked and mounted anew, as an operator does. Nobody may have anything open there."""
        self._run("umount", str(self.path))
        checked = subprocess.run([program("e2fsck"), "-p", str(self._image)], capture_output=True, text=True)
        assert checked.returncode in (0, 1), checked.stdout
        self._mount()

    @property
    def free(self) -> int:
        system = os.statvfs(self.path)
        return system.f_bavail * system.f_frsize

    @contextmanager
    def filled(self, leave: int = 0) -> Iterator[None]:
        """Another program takes all but `leave` bytes, for as long as the block lasts."""
        filler = self.path / "filler"
        try:
            with filler.open("wb", buffering=0) as file:
                step = 1 << 20
                while self.free > leave and step >= 512:
                    try:
                        file.write(bytes(max(512, min(step, self.free - leave))))
                    except OSError:
                        step //= 2
                os.fsync(file.fileno())
            yield
        finally:
            filler.unlink()

    @contextmanager
    def without_inodes(self) -> Iterator[None]:
        """Another program has all the files that there may be."""
        folder = self.path / "fillers"
        folder.mkdir()
        try:
            with contextlib.suppress(OSError):
                for number in itertools.count():
                    (folder / str(number)).touch()
            assert os.statvfs(self.path).f_ffree == 0
            yield
        finally:
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()

    def _mount(self) -> None:
        self._run("mount", "-o", "loop", str(self._image), str(self.path))

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def __enter__(self) -> Self:
        self.path.mkdir(parents=True)
        with self._image.open("wb") as image:
            image.truncate(self._size)
        # All space is everybody's, also root's; and the device does not go on being initialised behind our back.
        options = ("-m", "0", "-e", "remount-ro", "-E", "lazy_itable_init=0,lazy_journal_init=0")
        self._run(program("mkfs.ext4"), "-q", "-N", str(self._inodes), *options, str(self._image))
        self._mount()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Also where somebody has something open there: then it goes with the last of them."""
        subprocess.run(["umount", "-l", str(self.path)], capture_output=True)
        self._image.unlink(missing_ok=True)
