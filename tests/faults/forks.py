"""Children that are forked from a process which has imported everything, and never outlive it."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)


class Channel:
    """Messages between two processes. They go by sendto and recvfrom, which no fault strikes."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def say(self, *message: Any) -> None:
        self._end.send(pickle.dumps(message))

    def hear(self) -> tuple[Any, ...] | None:
        """None when the other end is gone."""
        try:
            data = self._end.recv(1 << 20)
        except ConnectionResetError:
            return None
        return pickle.loads(data) if data else None

    def fileno(self) -> int:
        return self._end.fileno()

    def close(self) -> None:
        self._end.close()


class Child:
    """A process that runs `work` and vanishes, with no clean-up of any kind."""

    def __init__(self, work: Callable[[Channel], None]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            _live_with(parent)
            _run(work, Channel(theirs))
        theirs.close()
        self.channel = Channel(ours)
        self._status: int | None = None

    def wait(self) -> int:
        """Its exit code; the negative signal when it was killed."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def end(self) -> None:
        """Dead and reaped, whatever it was doing."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        self.channel.close()

    def said(self) -> list[tuple[Any, ...]]:
        """Everything until it is gone."""
        messages = []
        while (message := self.channel.hear()) is not None:
            messages.append(message)
        return messages


def _live_with(parent: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _run(work: Callable[[Channel], None], channel: Channel) -> None:
    try:
        work(channel)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def in_child(work: Callable[[Callable[..., None]], Any]) -> Any:
    """What `work` returns, from a process of its own; RuntimeError when that failed."""

    def tell(channel: Channel) -> None:
        channel.say("returned", work(channel.say))

    child = Child(tell)
    try:
        returned = [rest for kind, *rest in child.said() if kind == "returned"]
        if child.wait() != 0 or not returned:
            raise RuntimeError(f"a child ended with {child.wait()}")
        return returned[0][0]
    finally:
        child.end()
