"""Making the system calls of a running process fail."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.programs import program


@contextmanager
def injecting(what: str, pids: Sequence[int]) -> Iterator[None]:
    """strace's `--inject`, on all threads of these processes, for as long as the block lasts."""
    calls = what.partition(":")[0]
    command = [program("strace"), "-f", "-e", f"trace={calls}", "-e", f"inject={what}"]
    for pid in pids:
        command += ["-p", str(pid)]
    strace = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        assert strace.stderr
        for _ in pids:
            line = strace.stderr.readline()
            while " attached" not in line:
                assert line, "strace cannot attach"
                line = strace.stderr.readline()
        yield
    finally:
        strace.terminate()  # It detaches, and what it traced goes on.
        strace.communicate()
