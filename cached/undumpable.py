"""Prevent core dumps of processes that hold other users' credentials: a dump would contain everybody's tokens.

A limit on the core's size does not apply where the kernel pipes cores to a program (core(5), on pipes), so the process
is made undumpable as well (prctl(2), PR_SET_DUMPABLE). No process of the same user may then trace it or read its memory
either. Files below /proc/self belong to root from then on, so they have to be written before. An exec undoes the
setting: each program makes it for itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource

PR_SET_DUMPABLE = 4


def leave_no_core() -> None:
    """Disable core dumps of this process and of those that it forks."""
    with contextlib.suppress(ValueError, OSError):  # A sandbox may forbid it; the call below still applies.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
