"""Which processes a run has started, however they detached: a mark in the environment, which children inherit."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

MARK = "STARTED_BY_RUN"  # Not CACHED_…: the daemon's environment is cleared of those.
PATIENCE_SECONDS = 10.0


def marked(mark: str, variable: str = MARK) -> list[int]:
    """Process ids, this process's own left out."""
    wanted = f"{variable}={mark}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # It ended while we looked, or is somebody else's.
            continue
        if wanted in variables and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def end(mark: str) -> list[str]:
    """Give them a moment to end by themselves, end the rest, and say which those were."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.1)  # Polling a condition, with a deadline.
    stayed = {pid: _command(pid) for pid in marked(mark)}
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in marked(mark):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        deadline = time.monotonic() + PATIENCE_SECONDS
        while marked(mark) and time.monotonic() < deadline:
            time.sleep(0.05)
    return list(stayed.values())


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:100].strip()
    except OSError:
        return str(pid)


def remove_tree(folder: Path) -> None:
    """Remove a folder in which a store keeps its snapshots: their directories are read-only."""
    for directory, _, _ in os.walk(folder):
        os.chmod(directory, 0o700)
    for directory, folders, files in os.walk(folder, topdown=False):
        for name in files:
            os.unlink(os.path.join(directory, name))
        for name in folders:
            path = os.path.join(directory, name)
            os.unlink(path) if os.path.islink(path) else os.rmdir(path)
    folder.rmdir()
