"""Processes that hold others' credentials leave no core behind: a dump would hold everybody's tokens.

A limit on the core's size does not bind where the kernel gives cores to a program (core(5), on pipes), so the process
is made undumpable as well (prctl(2), PR_SET_DUMPABLE). No process of the same user may then trace it or read its memory
either. What is below /proc/self belongs to root from then on, so what has to be written there comes first. An exec ends
it: each program does it for itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource

PR_SET_DUMPABLE = 4


def leave_no_core() -> None:
    """For this process and those that it forks."""
    with contextlib.suppress(ValueError, OSError):  # A sandbox may forbid it; the rest holds all the same.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
