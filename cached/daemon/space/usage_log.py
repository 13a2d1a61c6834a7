"""The uses of snapshots, with their users and times: gathered in memory so that a hit writes nothing, and flushed in
one transaction."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cached.daemon.runtime.peer import Peer
from cached.errors import NoSpace, StoreDegraded
from cached.model import Digest
from cached.store.index.use_clock import steady_time
from cached.store.snapshots.locks import holders, pids
from cached.store.store import Store


class Uses:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._used: dict[Digest, float] = {}
        self._given: dict[tuple[Digest, int], tuple[int, float]] = {}
        self._users: dict[tuple[Digest, int], float] = {}

    def touch(self, snapshot: Digest) -> None:
        with self._lock:
            self._used[snapshot] = steady_time()

    def given(self, snapshot: Digest, peer: Peer) -> None:
        """Record that a caller was given the path. It may have taken a lease; the kernel knows."""
        with self._lock:
            self._given.setdefault((snapshot, peer.pid), (peer.uid, time.time()))
            self._users[snapshot, peer.uid] = steady_time()

    def flush(self) -> None:
        """Write down uses, and those holders that the kernel confirms. On an error they are kept for the next flush,
        and the error is raised."""
        with self._lock:
            used, self._used = self._used, {}
            given, self._given = self._given, {}
            users, self._users = self._users, {}
        if not used and not given:
            return
        for (digest, _), (uid, _) in given.items():
            self._store.leases.note(digest, uid)
        held = self._held({digest.hex for digest, _ in given})
        leases = [
            (digest, pid, uid, _command(pid), since)
            for (digest, pid), (uid, since) in given.items()
            if any(pid == holder for holder, _ in held.get(digest.hex, ()))
        ]
        try:
            self._store.index.touch(used, leases, users)
        except (StoreDegraded, NoSpace):
            with self._lock:
                self._used, self._given, self._users = used | self._used, self._given | given, users | self._users
            raise

    def leases(self, only: Digest | None = None) -> list[dict[str, Any]]:
        """Return every lease that the kernel knows, or those of the snapshot `only`, with the facts known about its
        holder.

        `reopen`: files of the snapshot were replaced since the lease was taken, because they were damaged.
        """
        with contextlib.suppress(StoreDegraded, NoSpace):  # The kernel knows the leases anyway.
            self.flush()
        index = self._store.index
        rows = index.query(
            "SELECT digest, source FROM snapshot WHERE ? IS NULL OR digest = ? ORDER BY used_at DESC",
            (only and only.hex, only and only.hex),
        )
        sources = {row["digest"]: row["source"] for row in rows}
        held = self._held(sources)
        since = {(row["snapshot"], row["pid"]): row["since"] for row in index.query("SELECT * FROM lease")}
        # The last time a file was found damaged: a process that held it then has the old file open.
        damaged = {
            row["snapshot"]: row["at"]
            for row in index.query("SELECT snapshot, max(at) AS at FROM event WHERE what = 'damaged' GROUP BY snapshot")
        }
        found = []
        for digest, users in held.items():
            for pid, uid in sorted(users, key=lambda user: (user[0], user[1] or 0)):
                at = since.get((digest, pid))
                found.append(
                    {
                        "digest": f"sha256:{digest}",
                        "source": sources[digest],
                        "pid": pid,
                        "uid": _uid(pid) if uid is None else uid,
                        "command": _command(pid),
                        "since": None if at is None else rfc3339(at),
                        "held": True,
                        "reopen": damaged.get(digest, 0.0) > (at or float("inf")),
                    }
                )
        return found

    def _held(self, snapshots: Iterable[str]) -> dict[str, set[tuple[int, int | None]]]:
        """Return the leased snapshots, by hex, with their holders: pids, each with the user whose lock file it holds if
        the name of the file says so. Pid 0 is a process that is not visible in this pid namespace."""
        locks = holders()
        found: dict[str, set[tuple[int, int | None]]] = {}
        for digest, files in self._store.leases.of_all(map(Digest, snapshots)).items():
            found[digest.hex] = {(max(0, pid), held.uid) for held in files for pid in pids(held, locks)}
        return found


def rfc3339(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() if pid > 0 else ""
    except OSError:
        return ""


def _uid(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid if pid > 0 else None
    except OSError:
        return None


def named(lease: Mapping[str, Any]) -> str:
    """Return a phrase that describes the holder of a lease that `Uses.leases` returned."""
    whose = "" if lease["uid"] is None else f" of user {lease['uid']}"
    return f"{lease['command'] or 'a process'}{whose}" + (f" (pid {lease['pid']})" if lease["pid"] else "")
