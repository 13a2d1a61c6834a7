"""The contents of the node, for the operator: the objects that `ls`, `show`, `status` and `leases` return."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Container, Sequence
from typing import Any

from cached.access import Access, same_for_all
from cached.daemon.acquire.cache import Cache
from cached.daemon.http.visibility import Hearing, Title
from cached.daemon.integrity.scrub import Scrubber
from cached.daemon.runtime.threads import Threads
from cached.daemon.space.disk import Disk
from cached.daemon.space.usage_log import rfc3339
from cached.errors import CachedError, InvalidRequest, NoSpace, NotCached, StoreDegraded
from cached.model import Digest
from cached.model_ref import ModelRef
from cached.uris import display_name, spoken

_SNAPSHOTS = (
    "SELECT s.*, p.snapshot IS NOT NULL AS pinned, p.until FROM snapshot s "
    "LEFT JOIN pin p ON p.snapshot = s.digest AND (p.until IS NULL OR p.until > ?) "
)
_NAMED = "SELECT s.digest, s.state, r.ref, r.checked_at FROM resolution r JOIN snapshot s ON s.digest = r.snapshot "
_BEGINNING = "SELECT digest, state, NULL AS ref, 0 AS checked_at FROM snapshot WHERE digest GLOB ?"
_MIN_PREFIX = 4


class Inventory:
    """Describe the snapshots, leases and roots of this node. Methods that are not coroutines are called in a disk's
    thread."""

    def __init__(self, cache: Cache, scrubbers: Sequence[Scrubber], threads: Threads, version: str) -> None:
        self._cache = cache
        self.threads = threads
        self._disks = cache.disks
        self._scrubbers = scrubbers
        self._version = version
        self._started = time.time()

    async def find(self, text: str, only: int | None = None) -> tuple[Disk, Digest]:
        """Return a disk and the snapshot that a REF means: a URI, a digest, or an unambiguous prefix of one. Raise
        NotCached when there is none, and InvalidRequest when there are several.

        `only`: the user that makes the request, to whom the models of others are not visible; None is an administrator.
        """
        disks, digest = await self.find_all(text, only)
        return disks[0], digest

    async def find_all(self, text: str, only: int | None = None) -> tuple[list[Disk], Digest]:
        """Return every disk that has the snapshot that `find` returns, those first where it may be handed out, and the
        snapshot."""
        return await self.threads.disk(self._find, text, only)

    def _find(self, text: str, only: int | None) -> tuple[list[Disk], Digest]:
        prefix = _digits(text)
        found: dict[Digest, list[Disk]] = {}
        if prefix is not None:
            found = self._ask_all(_BEGINNING, only, f"{prefix}*")
        if len(found) > 1:
            raise InvalidRequest(f"{spoken(text)!r} is the beginning of {len(found)} snapshots; give more digits.")
        found = found or self._find_uri(text, only)
        if not found:
            raise NotCached(f"{spoken(text)} is not cached on this node; `cached ls` shows what is.")
        if len(found) > 1:
            raise InvalidRequest(
                f"{spoken(text)} is cached in {len(found)} versions; give the digest of one (`cached ls`)."
            )
        ((digest, disks),) = found.items()
        return disks, digest

    def _find_uri(self, text: str, only: int | None) -> dict[Digest, list[Disk]]:
        try:
            ref = ModelRef.parse(text)
        except CachedError:
            return {}
        # Requested with patterns, or at a commit: any one snapshot of that source will do.
        latest = same_for_all(ref.scheme)  # Otherwise it may mean several snapshots at once, to several keys.
        found = self._ask_all(_NAMED + "WHERE r.ref = ?", only, ref.key, latest=latest)
        if found or ref.uri != display_name(ref.uri):  # With another query it is another file.
            return found
        return self._ask_all(
            _NAMED + "WHERE r.source = ? OR r.source LIKE ? ESCAPE '\\'", only, str(ref), _escape(f"{ref}@") + "%"
        )

    def _ask_all(self, sql: str, only: int | None, *parameters: str, latest: bool = False) -> dict[Digest, list[Disk]]:
        """Return the visible snapshots of all disks, each with the disks that have it, READY ones first. With `latest`,
        return only the snapshot of the last answer."""
        found: dict[Digest, list[Disk]] = {}
        asked: dict[Digest, float] = {}
        for disk in self._disks:
            rows = disk.query(sql, *parameters)
            if not rows:
                continue
            hearing = self._hearing(disk, only)
            heard = [row for row in rows if hearing.hears(row["digest"], row["ref"])]
            for digest, state in {(row["digest"], row["state"]) for row in heard}:
                disks = found.setdefault(Digest(digest), [])
                disks.insert(0 if state == "ready" else len(disks), disk)
            for row in heard:
                asked[Digest(row["digest"])] = max(row["checked_at"], asked.get(Digest(row["digest"]), 0.0))
        last = max(asked, key=lambda digest: asked[digest], default=None) if latest else None
        return found if last is None else {last: found[last]}

    def _hearing(self, disk: Disk, only: int | None) -> Hearing:
        return Hearing(self._cache.gate, disk, only)

    def snapshots(self, disk: Disk, only: int | None) -> list[dict[str, Any]]:
        """Return the snapshots of one disk, the most recently used first: those visible to the user `only`; None means
        all."""
        self._flush(disk)
        rows = disk.store.index.query(_SNAPSHOTS + "ORDER BY s.used_at DESC", (time.time(),))
        titles = self._hearing(disk, only).titles(rows)
        leased = disk.store.leases.of_all(Digest(row["digest"]) for row, _ in titles)
        return [_snapshot(disk, row, title, leased) for row, title in titles]

    def leases(self, disk: Disk, only: int | None) -> list[dict[str, Any]]:
        """Return the leases on one disk: all, or those of the user `only`."""
        return self._hearing(disk, only).leases()

    def snapshot(self, disk: Disk, digest: Digest) -> dict[str, Any]:
        return self._shown(disk, digest, self._hearing(disk, None))

    def _shown(self, disk: Disk, digest: Digest, hearing: Hearing) -> dict[str, Any]:
        self._flush(disk)
        rows = disk.store.index.query(_SNAPSHOTS + "WHERE s.digest = ?", (time.time(), digest.hex))
        if not rows:
            raise NotCached(f"{digest} is not cached on this node.")
        return _snapshot(disk, rows[0], hearing.title(rows[0]), disk.store.leases.of_all([digest]))

    def _flush(self, disk: Disk) -> None:
        """Flush the uses of the disk. If it cannot write them, the answer is a little behind."""
        with contextlib.suppress(StoreDegraded, NoSpace):
            disk.uses.flush()

    def details(self, disk: Disk, digest: Digest, only: int | None = None) -> dict[str, Any]:
        """Return everything about the snapshot. For the user `only`, return what is its own or everybody's; None is an
        administrator."""
        store, hearing = disk.store, self._hearing(disk, only)
        read = store.snapshots.read(digest)
        files = [{"path": f.path, "size": f.size, "digest": str(f.digest)} for f in read[0].files] if read else []
        return {
            **self._shown(disk, digest, hearing),
            "path": str(store.snapshots.path(digest)),
            "lock": str(store.layout.locks(digest)),
            "manifest": files,
            "brought_by": read[1].brought_by if read and (hearing.all or read[1].brought_by == only) else None,
            **_sharing(disk, digest),
            "entrants": [each for each in _entrants(disk, digest) if hearing.all or each["uid"] == only],
            "history": _history(disk, digest, hearing.all),
            "holders": hearing.leases(digest),
        }

    async def gone(self, text: str) -> dict[str, Any] | None:
        """Return the history of a snapshot that is no longer here; None when nothing is known of it.

        For administrators only: it is no longer recorded to which users it was visible.
        """
        return await self.threads.disk(self._gone, text)

    def _gone(self, text: str) -> dict[str, Any] | None:
        prefix = _digits(text)
        where, value = ("snapshot GLOB ?", f"{prefix}*") if prefix is not None else ("source = ?", _canonical(text))
        events = [event for disk in self._disks for event in _events(disk, where, value)]
        if not events:
            return None
        events.sort(key=lambda event: float(event["at"]))
        last = events[-1]
        history = [_told(event) for event in events if event["snapshot"] == last["snapshot"]]
        return {"digest": f"sha256:{last['snapshot']}", "source": last["source"], "state": "gone", "history": history}

    def status(self, disk: Disk) -> dict[str, Any]:
        """Return the status of one root."""
        usage = disk.store.usage()
        counts = disk.store.index.query(
            "SELECT (SELECT count(*) FROM snapshot) AS snapshots, "
            "(SELECT count(*) FROM blob WHERE NOT damaged) AS blobs, "
            "(SELECT count(*) FROM snapshot WHERE state = 'damaged') AS damaged"
        )[0]
        return {
            "root": str(disk.root),
            "reason": disk.degraded,
            "limit": usage.limit,
            "used": usage.used,
            "reserved": usage.reserved,
            "free": usage.free,
            "quarantined": usage.quarantined,
            "snapshots": counts["snapshots"],
            "blobs": counts["blobs"],
            "damaged": counts["damaged"],
            "leases": len(disk.uses.leases()),
            "recovered": disk.store.recovered.as_dict(),
        }

    def summary(self, roots: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the status of the node, from the `status` of each root."""
        counters = self._cache.counters
        silent = [f"{root['root']}: {root['reason']}" for root in roots if "limit" not in root]
        problem = self._disks.problem or " ".join(silent) or None
        totals = {name: sum(root.get(name, 0) for root in roots) for name in _TOTALS}
        missing = [{"root": str(each.root), "reason": each.why} for each in self._disks.missing]
        return {
            "version": self._version,
            "root": str(self._disks.first.root),
            "healthy": problem is None,
            "reason": problem,
            **totals,
            "recovered": roots[0].get("recovered"),
            "roots": roots + missing,
            "hits": counters.hits,
            "misses": counters.misses,
            "stale": counters.stale,
            "failures": counters.failures,
            "fetched_bytes": self._cache.network.fetched_bytes,
            "scrubbed_blobs": sum(scrubber.done.blobs for scrubber in self._scrubbers),
            "scrubbed_bytes": sum(scrubber.done.bytes for scrubber in self._scrubbers),
            "scrub_damaged": sum(scrubber.done.damaged for scrubber in self._scrubbers),
            "workers": self._cache.workers.pids,
            "workers_lost": self._cache.workers.lost,
            "uptime": round(time.time() - self._started, 3),
        }


_TOTALS = ("limit", "used", "reserved", "free", "quarantined", "snapshots", "blobs", "damaged", "leases")


def _digits(text: str) -> str | None:
    """Return the hex digits of a digest or of the beginning of one; None for any other text."""
    prefix = text.removeprefix("sha256:").lower()
    return prefix if len(prefix) >= _MIN_PREFIX and all(char in "0123456789abcdef" for char in prefix) else None


def _canonical(text: str) -> str:
    try:
        return str(ModelRef.parse(text))
    except CachedError:
        return text


def _events(disk: Disk, where: str, value: str) -> list[sqlite3.Row]:
    return disk.query(f"SELECT * FROM event WHERE {where} ORDER BY id", value)


def _told(event: sqlite3.Row) -> dict[str, Any]:
    return {"at": rfc3339(event["at"]), "what": event["what"], "why": event["why"]}


def _history(disk: Disk, digest: Digest, whole: bool) -> list[dict[str, Any]]:
    """Return the events of the snapshot. Unless `whole`, return only when it was damaged: not every user may see what
    others did with it (its source, its holders), but a holder asks when it was damaged (see `Client.damaged`)."""
    events = _events(disk, "snapshot = ?", digest.hex)
    if whole:
        return [_told(event) for event in events]
    return [{**_told(event), "why": ""} for event in events if event["what"] == "damaged"]


def _entrants(disk: Disk, digest: Digest) -> list[dict[str, Any]]:
    """Return the users that may enter the snapshot's directory, each with the end of that time, beside those that hold
    leases. This has no meaning where everybody may enter."""
    rows = disk.store.index.query("SELECT uid, until FROM entrant WHERE snapshot = ? ORDER BY uid", (digest.hex,))
    return [{"uid": row["uid"], "until": rfc3339(row["until"])} for row in rows]


def _sharing(disk: Disk, digest: Digest) -> dict[str, int]:
    rows = disk.store.index.query(
        "SELECT b.size, (SELECT count(*) FROM snapshot_blob o WHERE o.blob = b.digest) AS links "
        "FROM snapshot_blob sb JOIN blob b ON b.digest = sb.blob WHERE sb.snapshot = ?",
        (digest.hex,),
    )
    unique = sum(row["size"] for row in rows if row["links"] == 1)
    return {"shared_bytes": sum(row["size"] for row in rows) - unique, "unique_bytes": unique}


def _snapshot(disk: Disk, row: sqlite3.Row, title: Title, leased: Container[Digest]) -> dict[str, Any]:
    return {
        "digest": f"sha256:{row['digest']}",
        "state": row["state"],
        "source": title.source,
        "revision": title.revision,
        "size": row["size"],
        "files": row["files"],
        "created_at": rfc3339(row["created_at"]),
        "used_at": rfc3339(row["used_at"]),
        "leased": Digest(row["digest"]) in leased,
        "pinned": bool(row["pinned"]),
        "pinned_until": None if row["until"] is None else rfc3339(row["until"]),
        "access": Access.parse(row["access"]).kind or "unknown",
        "root": str(disk.root),
        "refs": title.refs,
    }


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
