"""An upper bound on a user's bytes, so that most checks of its share need not read everything on the disk."""

from __future__ import annotations

import json

from cached.daemon.space.eviction_policy import Wish
from cached.store import overhead
from cached.store.store import Store

# For one user: the blobs of the snapshots that it brought and those that its fills count on, the files that these
# fetch, and the space that snapshots take beside blobs. Damaged blobs count as if they were not damaged.
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
    """Return an upper bound on the bytes that count towards the share of the wish's user, counting the wish."""
    new = wish.fill is None  # A running fill is among the rows already.
    blobs = json.dumps(sorted(wish.blobs) if new else [])
    row = store.index.query(_MOST, (wish.uid, blobs))[0]
    aside = sum(each.bytes for each in store.quarantine.list())
    beside = overhead.of(row["files"], row["snapshots"])
    coming = sum(wish.wants.values()) + wish.overhead if new else 0
    return int(row["bytes"]) + aside + beside + coming
