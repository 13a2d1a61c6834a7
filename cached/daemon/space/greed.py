"""Whether a user has more than its share, told without a look at everything that is there."""

from __future__ import annotations

import json

from cached.daemon.space.eviction_policy import Wish
from cached.store import overhead
from cached.store.store import Store

# Of one user: blobs of what it brought and of what its fills count on, what these fetch, and what snapshots take beside
# blobs. Damaged blobs count as if they were here.
_MOST = (
    "WITH its AS (SELECT digest, files FROM snapshot WHERE brought_by = ?1), "
    "running AS (SELECT id, overhead FROM fill WHERE uid = ?1), "
    "blobs AS (SELECT blob FROM snapshot_blob WHERE snapshot IN (SELECT digest FROM its) "
    "UNION SELECT blob FROM hold WHERE fill IN (SELECT id FROM running) UNION SELECT value FROM json_each(?2)) "
    "SELECT (SELECT coalesce(sum(size), 0) FROM blob WHERE digest IN blobs) "
    "+ (SELECT coalesce(sum(size), 0) FROM reservation WHERE key IN "
    "(SELECT key FROM want WHERE fill IN (SELECT id FROM running))) "
    "+ (SELECT coalesce(sum(overhead), 0) FROM running) AS bytes, "
    "(SELECT count(*) FROM its) AS snapshots, (SELECT coalesce(sum(files), 0) FROM its) AS files"
)


def most(store: Store, wish: Wish) -> int:
    """Bytes that the user of the wish has at most with it: what counts towards its share is never more."""
    new = wish.fill is None  # Of one that runs, all of it is among the rows.
    blobs = json.dumps(sorted(wish.blobs) if new else [])
    row = store.index.query(_MOST, (wish.uid, blobs))[0]
    aside = sum(each.bytes for each in store.quarantine.list())
    beside = overhead.of(row["files"], row["snapshots"])
    coming = sum(wish.wants.values()) + wish.overhead if new else 0
    return int(row["bytes"]) + aside + beside + coming
