"""strace, attached to a child that waits: what is watched, and what is done to a call."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.programs import program

# Calls that change the disk, make it durable, or may fail in a way that matters. `?` : where the machine has it.
MAKE = ("openat", "mkdir", "mkdirat", "link", "linkat")
MOVE = ("rename", "renameat", "renameat2")
DROP = ("unlink", "unlinkat", "rmdir")
MODE = ("chmod", "fchmod", "fchmodat")
WRITE = ("write", "pwrite64", "writev", "pwritev2", "copy_file_range", "ftruncate", "fallocate")
READ = ("read", "pread64", "preadv2")
SYNC = ("fsync", "fdatasync", "sync_file_range")
LOCK = ("flock", "fcntl")
CHANGE = MAKE + MOVE + DROP + MODE + WRITE + SYNC
WATCHED = (*CHANGE, *READ, *LOCK, "close")

_LINE = re.compile(r"(\w+)\((.*)\)\s+= (.+)\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Call:
    """One line of the log. `nth` counts calls of this name, as strace does."""

    name: str
    nth: int
    arguments: str
    result: str

    @property
    def injected(self) -> bool:
        return self.result.endswith("(INJECTED)")


def attach(pid: int, log: Path, *options: str, watched: tuple[str, ...] = WATCHED) -> subprocess.Popen[bytes]:
    """Once this returns every call of `pid` is watched. It ends when that process does."""
    trace = "trace=" + ",".join(f"?{name}" for name in watched)
    command = [program("strace"), "-y", "-o", str(log), "-e", "signal=none", "-e", trace, *options, "-p", str(pid)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None  # Asked for above.
    said = process.stderr.readline()
    if b"attached" not in said:
        process.kill()
        process.wait()
        raise RuntimeError(f"strace cannot attach: {said.decode()}")
    return process


def finish(process: subprocess.Popen[bytes]) -> None:
    """Its process is dead, so it ends by itself."""
    assert process.stderr is not None
    process.stderr.close()
    try:
        process.wait(10)
    finally:
        process.kill()
        process.wait()


def calls(log: Path) -> list[Call]:
    """What was called, in order. A call that never returned is left out."""
    counts: dict[str, int] = {}
    found = []
    for line in log.read_text(errors="replace").splitlines():
        if match := _LINE.match(line):
            name = match[1]
            counts[name] = counts.get(name, 0) + 1
            found.append(Call(name, counts[name], match[2], match[3]))
    return found
