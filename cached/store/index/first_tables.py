"""The tables of the first migration, a sentence for each column. Later ones change them: see `schema`."""

from __future__ import annotations

FIRST = (
    """CREATE TABLE blob (            -- published files
        digest TEXT PRIMARY KEY,       -- hex
        size INTEGER NOT NULL CHECK (size >= 0),
        pieces BLOB,                   -- XXH3-128 of each 16 MiB piece; NULL when rebuilt and not read since
        created_at REAL NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE snapshot (
        digest TEXT PRIMARY KEY,
        -- ready     complete and verified; may be handed out
        -- evicting  chosen to go; never handed out again
        -- damaged   a check failed; not handed out until a fill has mended it
        state TEXT NOT NULL CHECK (state IN ('ready', 'evicting', 'damaged')),
        ref TEXT NOT NULL,             -- ModelRef.key that it was first fetched for
        source TEXT NOT NULL,          -- the same as a person types it
        revision TEXT NOT NULL,
        size INTEGER NOT NULL,
        files INTEGER NOT NULL,
        created_at REAL NOT NULL,
        used_at REAL NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE snapshot_blob (
        snapshot TEXT NOT NULL REFERENCES snapshot ON DELETE CASCADE,
        blob TEXT NOT NULL REFERENCES blob,
        PRIMARY KEY (snapshot, blob)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX snapshot_blob_by_blob ON snapshot_blob (blob)",
    """CREATE TABLE resolution (      -- what a ref meant when it was last asked
        ref TEXT PRIMARY KEY,          -- ModelRef.key
        source TEXT NOT NULL,
        revision TEXT NOT NULL,
        snapshot TEXT NOT NULL REFERENCES snapshot ON DELETE CASCADE,
        checked_at REAL NOT NULL
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX resolution_by_snapshot ON resolution (snapshot)",
    "CREATE INDEX resolution_by_source ON resolution (source)",
    """CREATE TABLE identity (        -- which blob a remote file at one version is; written once
        identity TEXT PRIMARY KEY,     -- Listing.identity
        blob TEXT NOT NULL REFERENCES blob ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX identity_by_blob ON identity (blob)",
    """CREATE TABLE pin (
        snapshot TEXT PRIMARY KEY REFERENCES snapshot ON DELETE CASCADE,
        until REAL,                    -- NULL: until unpinned
        uid INTEGER NOT NULL,
        created_at REAL NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE fill (            -- FILLING: being fetched, holds its blobs, nobody has its path
        id INTEGER PRIMARY KEY,
        source TEXT NOT NULL,
        started_at REAL NOT NULL
    ) STRICT""",
    """CREATE TABLE hold (            -- blobs that a fill counts on
        fill INTEGER NOT NULL REFERENCES fill ON DELETE CASCADE,
        blob TEXT NOT NULL REFERENCES blob,
        PRIMARY KEY (fill, blob)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX hold_by_blob ON hold (blob)",
    """CREATE TABLE reservation (     -- bytes promised to an ingest; with no want it is parked
        key TEXT PRIMARY KEY,          -- the ingest's
        bytes INTEGER NOT NULL,
        created_at REAL NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE want (            -- ingests that a fill waits for
        fill INTEGER NOT NULL REFERENCES fill ON DELETE CASCADE,
        key TEXT NOT NULL REFERENCES reservation ON DELETE CASCADE,
        PRIMARY KEY (fill, key)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX want_by_key ON want (key)",
    """CREATE TABLE lease (           -- descriptions for the operator; the kernel decides
        snapshot TEXT NOT NULL REFERENCES snapshot ON DELETE CASCADE,
        pid INTEGER NOT NULL,
        uid INTEGER NOT NULL,
        command TEXT NOT NULL,
        since REAL NOT NULL,
        PRIMARY KEY (snapshot, pid)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE event (           -- what happened to a snapshot and why, newest last; bounded
        id INTEGER PRIMARY KEY,
        at REAL NOT NULL,
        snapshot TEXT NOT NULL,
        what TEXT NOT NULL,
        why TEXT NOT NULL
    ) STRICT""",
    "CREATE INDEX event_by_snapshot ON event (snapshot)",
)
