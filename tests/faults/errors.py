"""The faults that a system call may meet, and which calls may meet them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.faults import strace
from tests.faults.scenarios import Say
from tests.faults.strace import Call

_SYNCED = ("fsync", "fdatasync")


@dataclass(frozen=True)
class Fault:
    """`row` is that of FAULTS; `inject` is strace's; `strikes` are the names of calls that can meet it."""

    name: str
    row: str
    unit: str
    inject: str
    strikes: tuple[str, ...]
    every: int = 1  # Of the calls of one name, one in so many is struck.

    def may_strike(self, call: Call) -> bool:
        if self.name in ("KILL", "ENOSPC") and call.name == "openat":
            return "O_CREAT" in call.arguments
        if self.name == "EIO" and call.name == "fcntl":  # Letting go of a lock cannot fail, and strace would keep it.
            return "F_SETLK" in call.arguments and "F_UNLCK" not in call.arguments
        return call.name in self.strikes

    def tracing(self, call: str, nth: int) -> tuple[str, ...]:
        return ("-e", f"inject={call}:{self.inject}:when={nth}")


# Before each call that changes the disk, which is after the one before; where the disk is the same, so is the death.
KILL = Fault("KILL", "F1", "kill points", "signal=KILL", strace.CHANGE)
ENOSPC = Fault("ENOSPC", "F3", "errors", "error=ENOSPC", (*strace.MAKE, *strace.MOVE, *strace.WRITE, *_SYNCED))
EIO = Fault("EIO", "F4", "errors", "error=EIO", strace.WATCHED)
EINTR = Fault("EINTR", "F5", "errors", "error=EINTR", ("openat", *strace.WRITE, *strace.READ, *_SYNCED, "flock"), 3)
# A write of no bytes, as POSIX has it; strace cannot write a part, and bytes that it only says it wrote would be a lie.
ZERO = Fault("ZERO", "F5", "errors", "retval=0", ("write", "pwrite64"), 3)

FAULTS = (KILL, ENOSPC, EIO, EINTR, ZERO)

# Our own loops: SQLite has its own ways to the kernel.
_HALVED = ("pwrite", "write", "preadv", "read")


def halves(nth: int) -> Callable[[Say], None]:
    """From now on the `nth` read or write of this process does half of it, and every one is told. 0: none does."""

    def patch(say: Say) -> None:
        made = 0

        def halved(name: str) -> Callable[..., Any]:
            real = getattr(os, name)

            def call(fd: int, what: Any, *rest: Any) -> Any:
                nonlocal made
                made += 1
                say("call", name)
                return real(fd, _half(name, what) if made == nth else what, *rest)

            return call

        for name in _HALVED:
            setattr(os, name, halved(name))

    return patch


def _half(name: str, what: Any) -> Any:
    if name == "read":  # A count.
        return max(1, what // 2)
    if name == "preadv":
        (view,) = what
        return [view[: max(1, len(view) // 2)]]
    return memoryview(what)[: max(1, len(what) // 2)]
