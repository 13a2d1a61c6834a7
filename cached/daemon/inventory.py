"""What the node holds, for the operator: the shapes that `ls`, `show`, `status` and `leases` answer with."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

from cached.daemon.cache import Cache
from cached.daemon.usage import rfc3339
from cached.errors import CachedError, InvalidRequest, NotCached
from cached.model import Digest, ModelRef
from cached.store.leases import held

_SNAPSHOTS = (
    "SELECT s.*, p.snapshot IS NOT NULL AS pinned, p.until FROM snapshot s "
    "LEFT JOIN pin p ON p.snapshot = s.digest AND (p.until IS NULL OR p.until > ?) "
)
_MIN_PREFIX = 4


class Inventory:
    """Synchronous; the API calls it in a thread."""

    def __init__(self, cache: Cache, version: str) -> None:
        self._cache = cache
        self._store = cache.store
        self._version = version
        self._started = time.time()

    def find(self, text: str) -> Digest:
        """The snapshot that a REF means: a URI, a digest, or an unambiguous prefix of one. NotCached otherwise."""
        prefix = text.removeprefix("sha256:").lower()
        if len(prefix) >= _MIN_PREFIX and all(char in "0123456789abcdef" for char in prefix):
            rows = self._store.index.query("SELECT digest FROM snapshot WHERE digest GLOB ?", (prefix + "*",))
            if len(rows) == 1:
                return Digest(rows[0]["digest"])
            if rows:
                raise InvalidRequest(f"{text!r} is the beginning of {len(rows)} snapshots; give more digits.")
        return self._find_uri(text)

    def _find_uri(self, text: str) -> Digest:
        missing = NotCached(f"{text} is not cached on this node; `cached ls` shows what is.")
        try:
            ref = ModelRef.parse(text)
        except CachedError:
            raise missing from None
        rows = self._store.index.query("SELECT snapshot FROM resolution WHERE ref = ?", (ref.key,))
        if not rows:  # Asked for with patterns, or at a commit: any one snapshot of that source will do.
            rows = self._store.index.query(
                "SELECT DISTINCT snapshot FROM resolution WHERE source = ? OR source LIKE ? ESCAPE '\\'",
                (str(ref), _escape(f"{ref}@") + "%"),
            )
        if not rows:
            raise missing
        if len(rows) > 1:
            raise InvalidRequest(f"{text} is cached in {len(rows)} versions; give the digest of one (`cached ls`).")
        return Digest(rows[0]["snapshot"])

    def snapshots(self) -> list[dict[str, Any]]:
        self._cache.uses.flush()
        rows = self._store.index.query(_SNAPSHOTS + "ORDER BY s.used_at DESC", (time.time(),))
        refs: dict[str, list[str]] = {}
        for row in self._store.index.query("SELECT snapshot, source FROM resolution ORDER BY source"):
            refs.setdefault(row["snapshot"], []).append(row["source"])
        return [self._snapshot(row, refs.get(row["digest"], [])) for row in rows]

    def snapshot(self, digest: Digest) -> dict[str, Any]:
        self._cache.uses.flush()
        rows = self._store.index.query(_SNAPSHOTS + "WHERE s.digest = ?", (time.time(), digest.hex))
        if not rows:
            raise NotCached(f"{digest} is not cached on this node.")
        refs = self._store.index.query(
            "SELECT source FROM resolution WHERE snapshot = ? ORDER BY source", (digest.hex,)
        )
        return self._snapshot(rows[0], [row["source"] for row in refs])

    def details(self, digest: Digest) -> dict[str, Any]:
        read = self._store.snapshots.read(digest)
        files = [{"path": f.path, "size": f.size, "digest": str(f.digest)} for f in read[0].files] if read else []
        events = self._store.index.query(
            "SELECT at, what, why FROM event WHERE snapshot = ? ORDER BY id", (digest.hex,)
        )
        return {
            **self.snapshot(digest),
            "path": str(self._store.snapshots.path(digest)),
            "lock": str(self._store.snapshots.lock(digest)),
            "manifest": files,
            **self._sharing(digest),
            "history": [{"at": rfc3339(row["at"]), "what": row["what"], "why": row["why"]} for row in events],
            "holders": self._cache.uses.leases(digest),
        }

    def _sharing(self, digest: Digest) -> dict[str, int]:
        rows = self._store.index.query(
            "SELECT b.size, (SELECT count(*) FROM snapshot_blob o WHERE o.blob = b.digest) AS links "
            "FROM snapshot_blob sb JOIN blob b ON b.digest = sb.blob WHERE sb.snapshot = ?",
            (digest.hex,),
        )
        unique = sum(row["size"] for row in rows if row["links"] == 1)
        return {"shared_bytes": sum(row["size"] for row in rows) - unique, "unique_bytes": unique}

    def _snapshot(self, row: sqlite3.Row, refs: list[str]) -> dict[str, Any]:
        return {
            "digest": f"sha256:{row['digest']}",
            "state": row["state"],
            "source": row["source"],
            "revision": row["revision"],
            "size": row["size"],
            "files": row["files"],
            "created_at": rfc3339(row["created_at"]),
            "used_at": rfc3339(row["used_at"]),
            "leased": held(self._store.snapshots.lock(Digest(row["digest"]))),
            "pinned": bool(row["pinned"]),
            "pinned_until": None if row["until"] is None else rfc3339(row["until"]),
            "refs": refs,
        }

    def status(self) -> dict[str, Any]:
        usage = self._store.usage()
        counts = self._store.index.query(
            "SELECT (SELECT count(*) FROM snapshot) AS snapshots, (SELECT count(*) FROM blob) AS blobs"
        )[0]
        counters = self._cache.counters
        return {
            "version": self._version,
            "root": str(self._store.layout.root),
            "healthy": True,
            "reason": None,
            "limit": usage.limit,
            "used": usage.used,
            "reserved": usage.reserved,
            "free": usage.free,
            "snapshots": counts["snapshots"],
            "blobs": counts["blobs"],
            "leases": len(self._cache.uses.leases()),
            "hits": counters.hits,
            "misses": counters.misses,
            "stale": counters.stale,
            "failures": counters.failures,
            "fetched_bytes": self._cache.fetcher.fetched_bytes,
            "workers": self._cache.workers.pids,
            "workers_lost": self._cache.workers.lost,
            "uptime": round(time.time() - self._started, 3),
        }


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
