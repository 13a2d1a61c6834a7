"""The file index.db: its connections, its transactions, and what its errors mean.

One connection writes (from one thread at a time, behind a lock) and two only read. SQLite before 3.51.3 can lose a WAL
reset when two connections write or checkpoint at once; ours never do.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from cached.errors import CachedError, NoSpace, StoreDegraded
from cached.store import soundness
from cached.store.schema import Database, migrate
from cached.store.seals import teach

REMEMBERED = 1024  # Answers.
LOG_BYTES = 4 << 20  # To which the log is cut when it has been written back; else it stays as long as it ever was.


class Reader:
    """A connection that only reads, by one thread at a time.

    Given how many `Commits` there have been, it remembers what it read until the next: each question to SQLite lets
    other threads have the interpreter, and where they are busy a hit would wait for them again and again.
    """

    def __init__(self, path: Path, commits: Commits | None = None) -> None:
        self._commits, self._as_of = commits, -1
        self._remembered: dict[tuple[str, tuple[object, ...]], list[sqlite3.Row]] = {}
        self._connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None, check_same_thread=False, timeout=1
        )
        self._connection.row_factory = sqlite3.Row
        self._lock = threading.Lock()

    def query(self, sql: str, parameters: Iterable[object] = ()) -> list[sqlite3.Row]:
        """What has been committed."""
        question = sql, tuple(parameters)
        try:
            with self._lock:
                if self._commits is None:
                    return self._connection.execute(*question).fetchall()
                self._forget(self._commits.count)
                if question not in self._remembered:
                    self._remembered[question] = self._connection.execute(*question).fetchall()
                return self._remembered[question]
        except sqlite3.DatabaseError as error:
            raise _translated(error) from error

    def _forget(self, count: int) -> None:
        """What was read before so many commits. The count was taken before the next read, so that what is read while
        one is under way is forgotten with its end."""
        if self._as_of != count or len(self._remembered) >= REMEMBERED:
            self._remembered.clear()
            self._as_of = count

    def close(self) -> None:
        self._connection.close()


@dataclass(slots=True)
class Commits:
    """How many there have been, those that failed included: nobody knows what they have left."""

    count: int = 0


class IndexFile:
    def __init__(self, path: Path) -> None:
        """Open, or create; sqlite3.DatabaseError when the file is damaged, StoreDegraded when it is too new."""
        self._lock, self._commits = threading.RLock(), Commits()
        self._writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        self._writer.row_factory = sqlite3.Row
        try:
            self._writer.execute("PRAGMA journal_mode=WAL")
            self._writer.execute("PRAGMA synchronous=FULL")
            self._writer.execute("PRAGMA foreign_keys=ON")
            self._writer.execute(f"PRAGMA journal_size_limit={LOG_BYTES}")
            teach(self._writer)
            migrate(Database(self._writer))
            damage = soundness.problem(self._writer)
            if damage is not None:
                raise sqlite3.DatabaseError(damage)
            self._reader = Reader(path)
            self.hits = Reader(path, self._commits)  # Of its own: no hit waits for a listing.
        except BaseException:
            self._writer.close()
            raise

    def close(self) -> None:
        self.hits.close()
        self._reader.close()
        self._writer.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing, durable on leaving. Nested use joins the outer transaction."""
        with self._lock:
            if self._writer.in_transaction:
                yield self._writer
                return
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
                self._writer.execute("COMMIT")
            except sqlite3.IntegrityError:
                self._rollback()
                raise
            except sqlite3.DatabaseError as error:
                self._rollback()
                raise _translated(error) from error
            except BaseException:
                self._rollback()
                raise
            finally:
                self._commits.count += 1

    def _rollback(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")

    def query(self, sql: str, parameters: Iterable[object] = ()) -> list[sqlite3.Row]:
        """Read what has been committed."""
        return self._reader.query(sql, parameters)


# What does not pass by itself. https://www.sqlite.org/rescode.html
_LASTING = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_IOERR_SHMSIZE = sqlite3.SQLITE_IOERR | 19 << 8  # What a full disk becomes when the WAL's index has to grow.


def _translated(error: sqlite3.DatabaseError) -> CachedError:
    extended = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    code = extended & 0xFF
    if code == sqlite3.SQLITE_FULL or extended == _IOERR_SHMSIZE:
        return NoSpace("The disk filled up while the index was written; free some space or lower `limit`.")
    failure = StoreDegraded(f"The index cannot be used: {error}. Check the disk, then restart cached.")
    failure.lasting = code in _LASTING
    return failure
