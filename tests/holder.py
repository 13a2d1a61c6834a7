"""A process that holds models, told over a socket what to do; its leases end when it does, and it ends with the test.

`python -m tests.holder SOCKET` is the process, with the test at the other end of its standard input.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cached import Client, Lease
from cached.client.lease import take

ANSWER_SECONDS = 60.0
MESSAGE_BYTES = 1 << 16


class Holder:
    """The test's end. `prefix` is a command to run it under, such as `unshare`."""

    def __init__(self, daemon_socket: Path, prefix: Sequence[str] = ()) -> None:
        self._end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._end.settimeout(ANSWER_SECONDS)
        command = [*prefix, sys.executable, "-m", "tests.holder", str(daemon_socket)]
        with theirs:
            self.process = subprocess.Popen(command, stdin=theirs, cwd=Path(__file__).parents[1])

    def acquire(self, uri: str, count: int = 1) -> dict[str, Any]:
        """Lease it so many times; what the last one said."""
        return self.ask("acquire", uri, count)

    def digests(self) -> dict[str, str]:
        """The sha256 of every file that it holds, read by the process itself."""
        return dict(self.ask("read"))

    def fork(self) -> int:
        """The pid of a child that has inherited the leases and does nothing with them until the test ends."""
        return int(self.ask("fork")["pid"])

    def give(self) -> int:
        """A descriptor of a lock that the process has taken, passed over the socket."""
        self._end.send(json.dumps(["give"]).encode())
        _, fds, _, _ = socket.recv_fds(self._end, MESSAGE_BYTES, 1)
        return fds[0]

    def keep(self, fd: int) -> None:
        """Pass a descriptor on to the process."""
        socket.send_fds(self._end, [json.dumps(["keep"]).encode()], [fd])
        self._end.recv(MESSAGE_BYTES)

    def release(self) -> None:
        self.ask("release")

    def ask(self, *words: Any) -> Any:
        self._end.send(json.dumps(words).encode())
        answer = json.loads(self._end.recv(MESSAGE_BYTES) or b"null")
        if answer is None or "error" in answer:
            raise RuntimeError(f"the holder failed: {answer}")
        return answer

    def kill(self) -> None:
        """SIGKILL, and it is gone when this returns."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.close()  # Also ends what it forked.
        self.kill()


class Work:
    """The process's end: one method for each thing that it can be told."""

    def __init__(self, daemon_socket: str, end: socket.socket) -> None:
        self._client = Client(daemon_socket, timeout=30.0)
        self._end = end
        self._leases: list[Lease] = []
        self._descriptors: list[int] = []

    def acquire(self, uri: str, count: int) -> dict[str, Any]:
        self._leases += [self._client.acquire(uri) for _ in range(count)]
        last = self._leases[-1]
        return {"path": last.path, "digest": last.digest, "hit": last.hit, "stale": last.stale, "pid": os.getpid()}

    def read(self) -> dict[str, str]:
        files = [path for lease in self._leases for path in Path(lease.path).rglob("*") if path.is_file()]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def writable(self, path: str) -> dict[str, Any]:
        return {"writable": os.access(path, os.W_OK)}

    def fork(self) -> dict[str, Any]:
        pid = os.fork()
        if pid == 0:
            hung_up = select.poll()
            hung_up.register(self._end, 0)  # Nothing but its end: what is said here is the parent's to hear.
            hung_up.poll()
            os._exit(0)
        return {"pid": pid}

    def take(self, lock: str) -> dict[str, Any]:
        fd = take(lock)
        if fd is not None:
            self._descriptors.append(fd)
        return {"taken": fd is not None}

    def release(self) -> dict[str, Any]:
        while self._leases:
            self._leases.pop().release()
        while self._descriptors:
            os.close(self._descriptors.pop())
        return {}

    def run(self) -> None:
        while True:
            message, fds, _, _ = socket.recv_fds(self._end, MESSAGE_BYTES, 1)
            if not message:
                return
            self._descriptors += fds
            word, *arguments = json.loads(message)
            if word == "give":
                socket.send_fds(self._end, [b"{}"], self._descriptors[-1:])
            elif word == "keep":
                self._end.send(b"{}")
            else:
                self._end.send(json.dumps(self._do(word, arguments)).encode())

    def _do(self, word: str, arguments: list[Any]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self, word)(*arguments)
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}
        return answer


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the test's to act upon.
    Work(sys.argv[1], socket.socket(fileno=0)).run()
