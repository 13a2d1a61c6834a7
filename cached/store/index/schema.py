"""The index's tables, as migrations. A migration that has landed is never edited; a change is a new one."""

from __future__ import annotations

from cached.errors import StoreDegraded
from cached.store.index import query_strings, row_seals
from cached.store.index.first_tables import FIRST
from cached.store.index.sqlite_library import Database, Migrations

__all__ = ["Database", "migrate"]

migrations = Migrations("cached")


def _run(db: Database, statements: tuple[str, ...]) -> None:
    for statement in statements:
        db.execute(statement)


@migrations()
def first(db: Database) -> None:
    _run(db, FIRST)


_SECOND = (
    # A check failed: its bytes are in quarantine, and count no more. Its row stays while a snapshot wants them back.
    "ALTER TABLE blob ADD COLUMN damaged INTEGER NOT NULL DEFAULT 0 CHECK (damaged IN (0, 1))",
    # st_mtime_ns since it was published: a file that was written to meanwhile has another. NULL: not known.
    "ALTER TABLE blob ADD COLUMN mtime_ns INTEGER",
    # When its pieces, and its complete sha256, were last found undamaged; 0: not since the index was rebuilt.
    "ALTER TABLE blob ADD COLUMN checked_at REAL NOT NULL DEFAULT 0",
    "ALTER TABLE blob ADD COLUMN hashed_at REAL NOT NULL DEFAULT 0",
    "CREATE INDEX blob_by_checked_at ON blob (checked_at)",
    "CREATE INDEX blob_by_hashed_at ON blob (hashed_at)",
    # The source of the snapshot, which outlives its row.
    "ALTER TABLE event ADD COLUMN source TEXT NOT NULL DEFAULT ''",
    "CREATE INDEX event_by_source ON event (source)",
)


@migrations()
def second(db: Database) -> None:
    _run(db, _SECOND)


@migrations()
def third(db: Database) -> None:
    """Seal the rows that nothing on the disk could correct (see `row_seals`)."""
    row_seals.teach(db.conn)
    for table, names in (("identity", "identity, blob"), ("resolution", "ref, source, revision, snapshot")):
        db.execute(f"ALTER TABLE {table} ADD COLUMN seal INTEGER NOT NULL DEFAULT 0")
        db.execute(f"UPDATE {table} SET seal = seal({names})")


_FOURTH = (
    # str(Access): the credentials that may read it. For a snapshot as in its manifest, for a resolution as this name's
    # source answered; empty: not known, so the source has to be queried.
    "ALTER TABLE snapshot ADD COLUMN access TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE resolution ADD COLUMN access TEXT NOT NULL DEFAULT ''",
    """CREATE TABLE fingerprint (     -- one row: the key of the hash that stands for credentials in `proof`
        key BLOB NOT NULL
    ) STRICT""",
    "INSERT INTO fingerprint VALUES (randomblob(32))",
    """CREATE TABLE proof (           -- when credentials were last seen to open a remote file
        probe TEXT NOT NULL,           -- Access.probe
        who TEXT NOT NULL,             -- keyed hash of a caller's credentials, or 'own'
        proved_at REAL NOT NULL,
        PRIMARY KEY (probe, who)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE entrant (         -- who may enter the directory of a snapshot that is not open to everybody
        snapshot TEXT NOT NULL REFERENCES snapshot ON DELETE CASCADE,
        uid INTEGER NOT NULL,
        until REAL NOT NULL,           -- after that, for as long as a process of theirs holds a lease
        PRIMARY KEY (snapshot, uid)
    ) STRICT, WITHOUT ROWID""",
)


@migrations()
def fourth(db: Database) -> None:
    """Record the access to snapshots and names, the proofs of credentials, and the users that may enter directories."""
    row_seals.teach(db.conn)
    _run(db, _FOURTH)
    db.execute("UPDATE resolution SET seal = seal(ref, source, revision, snapshot, access)")


_BY_CREDENTIALS = (
    "ALTER TABLE resolution RENAME TO former",
    """CREATE TABLE resolution (      -- what a ref meant when these credentials last asked
        ref TEXT NOT NULL,             -- ModelRef.key
        -- ''       of a place that is open to all
        -- 'own'    the daemon's own credentials; 'nobody': none
        -- a hash   the caller's, keyed; after '@' that of what chooses a region or an account
        -- '?'      not known: answers nobody, until the ref is asked for again
        who TEXT NOT NULL,
        source TEXT NOT NULL,
        revision TEXT NOT NULL,
        snapshot TEXT NOT NULL REFERENCES snapshot ON DELETE CASCADE,
        checked_at REAL NOT NULL,
        seal INTEGER NOT NULL,
        access TEXT NOT NULL,          -- str(Access)
        PRIMARY KEY (ref, who)
    ) STRICT, WITHOUT ROWID""",
    # The daemon's own credentials were seen to open only one file, of the caller's choice.
    "INSERT INTO resolution SELECT ref, CASE access WHEN 'open' THEN '' ELSE '?' END, source, revision, snapshot, "
    "checked_at, 0, CASE WHEN access LIKE 'own %' THEN 'caller' || substr(access, 4) ELSE access END FROM former "
    "WHERE seal = seal(ref, source, revision, snapshot, access)",  # Otherwise the row is damaged.
    "DROP TABLE former",
    "CREATE INDEX resolution_by_snapshot ON resolution (snapshot)",
    "CREATE INDEX resolution_by_source ON resolution (source)",
    "UPDATE snapshot SET access = 'caller' || substr(access, 4) WHERE access LIKE 'own %'",
    "UPDATE entrant SET until = 0",
    "DROP TABLE proof",
    """CREATE TABLE proof (           -- when credentials were last seen to open a place, or a set of files
        probe TEXT NOT NULL,           -- Access.probe
        who TEXT NOT NULL,             -- as in `resolution`
        place TEXT NOT NULL,           -- Listing.place
        proved_at REAL NOT NULL,
        PRIMARY KEY (probe, who)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE proven (          -- which files of a place credentials were seen to read, each by itself
        who TEXT NOT NULL,             -- as in `resolution`; of temporary keys whose they are, as the source says
        place TEXT NOT NULL,
        files BLOB NOT NULL,           -- keyed hashes of their identities, one after the other
        at REAL NOT NULL,              -- when one of them was last asked for again
        PRIMARY KEY (who, place)
    ) STRICT, WITHOUT ROWID""",
)


@migrations()
def resolutions_by_credentials(db: Database) -> None:
    """Record the meaning of a name for each set of credentials, and delete proofs that rested on less than is required
    now."""
    row_seals.teach(db.conn)
    _run(db, _BY_CREDENTIALS)
    db.execute(f"UPDATE resolution SET seal = seal({row_seals.SEALED['resolution']})")


@migrations()
def queries_hashed(db: Database) -> None:
    """Replace the query strings of http(s) URLs by hashes, so that none is stored."""
    query_strings.hide_in_index(db.conn)


@migrations()
def fingerprints_anew(db: Database) -> None:
    """Replace the key that stands between credentials and their fingerprints, because everybody on the node could read
    it, and delete the proofs."""
    db.execute("UPDATE fingerprint SET key = randomblob(32)")
    db.execute("DELETE FROM proof")


_PROMISES = (
    # `bytes` is the room that is set aside for it; the room for the rest of its size has yet to be found.
    "ALTER TABLE reservation ADD COLUMN size INTEGER NOT NULL DEFAULT 0",
    "UPDATE reservation SET size = bytes",
    # The user on whose account it is fetched; NULL: on nobody's.
    "ALTER TABLE fill ADD COLUMN uid INTEGER",
    """CREATE TABLE promise (         -- snapshots that go for a fill when it needs their room, and serve until then
        snapshot TEXT PRIMARY KEY REFERENCES snapshot ON DELETE CASCADE,
        fill INTEGER NOT NULL REFERENCES fill ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX promise_by_fill ON promise (fill)",
    # The user on whose account it was fetched; NULL: on nobody's, or not known.
    "ALTER TABLE snapshot ADD COLUMN brought_by INTEGER",
    "ALTER TABLE snapshot ADD COLUMN shared_at REAL NOT NULL DEFAULT 0",  # When another user was last given it.
)


@migrations()
def promises_and_shares(db: Database) -> None:
    """Record room that is promised before it exists, and the user that brought each model."""
    _run(db, _PROMISES)


@migrations()
def fills_have_overhead(db: Database) -> None:
    """Set aside the bytes that the snapshot of a fill will take beside its blobs."""
    db.execute("ALTER TABLE fill ADD COLUMN overhead INTEGER NOT NULL DEFAULT 0")  # Bytes.


_SHARING = (
    """CREATE TABLE sharing (         -- who else than who brought it was given a snapshot, and when last; bounded
        snapshot TEXT NOT NULL REFERENCES snapshot ON DELETE CASCADE,
        uid INTEGER NOT NULL,
        at REAL NOT NULL,
        PRIMARY KEY (snapshot, uid)
    ) STRICT, WITHOUT ROWID""",
    "ALTER TABLE snapshot DROP COLUMN shared_at",  # It did not name the user.
)


@migrations()
def shared_by_whom(db: Database) -> None:
    """Record the other users of each snapshot, so that a snapshot stays for them as far as their own shares have room
    for it."""
    _run(db, _SHARING)


def migrate(db: Database) -> None:
    """Bring the tables up to date. Raise StoreDegraded when a newer cached wrote them, and ValueError when they are
    damaged."""
    applied = {migration.name for migration in migrations.applied(db)}
    unknown = applied - _KNOWN
    if unknown and not applied >= _KNOWN:  # A newer cached has applied ours as well.
        raise ValueError("its list of migrations is damaged")
    if unknown:
        raise StoreDegraded(f"The index was written by a newer cached (it has {min(unknown)!r}); use that version.")
    migrations.apply(db)


_KNOWN = {
    "first",
    "second",
    "third",
    "fourth",
    "resolutions_by_credentials",
    "queries_hashed",
    "fingerprints_anew",
    "promises_and_shares",
    "fills_have_overhead",
    "shared_by_whom",
}
