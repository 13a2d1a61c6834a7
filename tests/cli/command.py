"""The installed `cached` command, run as a process: what goes in, and what comes out of each stream."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name("cached"))
# What would change an answer, or is a secret of whoever runs the tests.
_FOREIGN = ("CACHED_", "HF_", "HUGGING_FACE", "AWS_", "GOOGLE_")


def environment(socket: Path, **variables: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return {**clean, "CACHED_SOCKET": str(socket), "COLUMNS": "160", **variables}


class Command:
    """Runs the command against one socket."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket

    def __call__(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, *arguments],
            env=environment(self.socket, **variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [COMMAND, *arguments],
            env=environment(self.socket),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def on_terminal(self, *arguments: str, stream: str) -> tuple[int, str, str]:
        """Exit code, what the terminal showed, and what the other stream got; `stream` is the one on the terminal."""
        ours, theirs = pty.openpty()
        other = "stderr" if stream == "stdout" else "stdout"
        process = subprocess.Popen(
            [COMMAND, *arguments],
            env=environment(self.socket, TERM="xterm"),
            stdin=subprocess.DEVNULL,
            **{stream: theirs, other: subprocess.PIPE},  # type: ignore[call-overload]
        )
        os.close(theirs)
        shown = _read_terminal(ours)
        rest = getattr(process, other).read().decode()
        getattr(process, other).close()
        return process.wait(60), shown, rest


def _read_terminal(fd: int) -> str:
    """Everything until the process has closed its end."""
    parts: list[bytes] = []
    while select.select([fd], [], [], 60)[0]:
        try:
            part = os.read(fd, 65536)
        except OSError:  # EIO: the other end is closed.
            break
        if not part:
            break
        parts.append(part)
    os.close(fd)
    return b"".join(parts).decode()
