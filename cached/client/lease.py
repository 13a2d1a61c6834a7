"""Leases: a shared flock keeps a snapshot in place for as long as a process needs it."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

from cached.wire import Ready

if TYPE_CHECKING:
    from cached.prefetch.prefetch import Prefetch


class Lease:
    """A lease on a snapshot: until `release`, or until the process ends, its files stay in place.

    Dropping the object does not release the lease; a forked child that inherits it holds it too.
    """

    def __init__(self, ready: Ready, fd: int) -> None:
        self.path = ready.path
        self.lock_file = ready.lock
        self.digest = ready.digest
        self.revision = ready.revision
        self.source = ready.source
        self.size = ready.size
        self.hit = ready.hit
        self.stale = ready.stale
        self.since = time.time()  # Seconds since the epoch.
        self._fd: int | None = fd
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        state = "held" if self._fd is not None else "released"
        return f"<Lease {self.source}@{self.revision[:12]} {state} {self.path}>"

    def prefetch(self, share: float = 0.5) -> Prefetch:
        """Start reading the model into the page cache, in the order an engine reads it; cached pages are not read.

        Use no more than `share` of the available memory. Return at once, with an object to wait for, to cancel or to
        query for figures. Errors are never raised: a loader works without prefetch.
        """
        from cached.prefetch.prefetch import (
            Prefetch,  # Here: few need it, and it would add to what `import cached` costs.
        )

        return Prefetch(self.path, share)

    def release(self) -> None:
        """Release the lease; the path may disappear at any time after. Calling it again does nothing."""
        with self._lock:
            fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def take(lock: str) -> int | None:
    """Acquire a shared flock on the snapshot's lock file and return its descriptor; None if another process holds the
    lock exclusively, or the snapshot is being or has been removed."""
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink > 0:  # Else unlinked between the reply and the lock: the snapshot is gone.
            return fd
    except BlockingIOError:
        pass  # Held by an eviction, for the length of a rename; or by another process, for any time.
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def pauses(seconds: float) -> Iterator[None]:
    """Sleep between tries, at first a millisecond, each time about twice as long and at most 0.1 s, `seconds` in total.

    Each pause varies at random, so that several waiters for the same lock do not retry together.
    """
    end, pause = time.monotonic() + seconds, 0.001
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, pause * (0.5 + os.urandom(1)[0] / 255)))
        pause = min(0.1, pause * 2)
        yield


def in_the_way(lock: str) -> str:
    """Return the processes that keep others from leasing, as far as visible from here; empty if there are none."""
    try:
        inode = os.stat(lock).st_ino
        with open("/proc/locks") as lines:
            found = [words for line in lines if len(words := line.split()) > 5 and words[1] == "FLOCK"]
    except OSError:
        return ""
    pids = [int(words[4]) for words in found if words[3] == "WRITE" and words[5].endswith(f":{inode}")]
    return ", ".join(map(_named, pids))


def _named(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as comm:
            return f"{comm.read().strip()} (pid {pid}) of user {os.stat(f'/proc/{pid}').st_uid}"
    except OSError:
        return "a process that cannot be seen from here"
