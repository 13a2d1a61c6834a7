"""The file index.db: its connections, its transactions, and the translation of its errors.

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
from cached.store.index import integrity
from cached.store.index.row_seals import teach
from cached.store.index.schema import Database, migrate

REMEMBERED, MOST_ROWS, MOST_LETTERS = 1024, 8, 1024  # Cached results; the rows of each, and the letters of its query.
LOG_BYTES = 4 << 20  # The log is cut to this after a checkpoint; else it keeps its largest size.


Question = tuple[str, tuple[object, ...]]


class Reader:
    """A connection that only reads, used by one thread at a time.

    With `commits` it caches results until the next commit: each query lets other threads have the interpreter, and
    where they are busy a hit would wait for them again and again.
    """

    def __init__(self, path: Path, commits: Commits | None = None) -> None:
        self._commits, self._as_of = commits, -1
        self._remembered: dict[Question, list[sqlite3.Row]] = {}
        self._connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None, check_same_thread=False, timeout=1
        )
        self._connection.row_factory = sqlite3.Row
        self._lock = threading.Lock()

    def query(self, sql: str, parameters: Iterable[object] = ()) -> list[sqlite3.Row]:
        """Return the committed rows that match. Raise NoSpace or StoreDegraded on an error of SQLite."""
        question = sql, tuple(parameters)
        try:
            with self._lock:
                if self._commits is None:
                    return self._connection.execute(*question).fetchall()
                self._forget(self._commits.count)
                if (known := self._remembered.get(question)) is not None:
                    return known
                found = self._connection.execute(*question).fetchall()
                self._remember(question, found)
                return found
        except sqlite3.DatabaseError as error:
            raise _translated(error) from error

    def _forget(self, count: int) -> None:
        """Drop the results cached before the commit count was `count`. It was taken before the next read, so that
        results read during a commit are dropped when that ends."""
        if self._as_of != count:
            self._remembered.clear()
            self._as_of = count

    def _remember(self, question: Question, found: list[sqlite3.Row]) -> None:
        """Cache the result, unless it is large: callers choose how long their names are, and how many names a model
        has."""
        if len(self._remembered) >= REMEMBERED:
            self._remembered.clear()
        if len(found) <= MOST_ROWS and sum(len(each) for each in question[1] if isinstance(each, str)) <= MOST_LETTERS:
            self._remembered[question] = found

    def close(self) -> None:
        self._connection.close()


@dataclass(slots=True)
class Commits:
    """Count the transactions that changed something, and those that failed, because their effect is not known."""

    count: int = 0


class IndexFile:
    def __init__(self, path: Path) -> None:
        """Open or create the file. Raise sqlite3.DatabaseError when it is damaged, StoreDegraded when it is too new."""
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
            damage = integrity.problem(self._writer)
            if damage is not None:
                raise sqlite3.DatabaseError(damage)
            self._reader = Reader(path)
            self.hits = Reader(path, self._commits)  # A separate one: no hit waits for a listing.
        except BaseException:
            self._writer.close()
            raise

    def close(self) -> None:
        self.hits.close()
        self._reader.close()
        self._writer.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the block as one transaction: all of it or nothing, durable on leaving. Nested use joins the outer
        transaction."""
        with self._lock:
            if self._writer.in_transaction:
                yield self._writer
                return
            before, done = self._writer.total_changes, False
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
                self._writer.execute("COMMIT")
                done = True
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
                if not done or self._writer.total_changes != before:
                    self._commits.count += 1

    def _rollback(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")

    def query(self, sql: str, parameters: Iterable[object] = ()) -> list[sqlite3.Row]:
        """Return the committed rows that match."""
        return self._reader.query(sql, parameters)


# Errors that do not go away by themselves. https://www.sqlite.org/rescode.html
_LASTING = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_IOERR_SHMSIZE = sqlite3.SQLITE_IOERR | 19 << 8  # A full disk, when the WAL's index has to grow.


def _translated(error: sqlite3.DatabaseError) -> CachedError:
    extended = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    code = extended & 0xFF
    if code == sqlite3.SQLITE_FULL or extended == _IOERR_SHMSIZE:
        return NoSpace("The disk filled up while the index was written; free some space or lower `limit`.")
    failure = StoreDegraded(f"The index cannot be used: {error}. Check the disk, then restart cached.")
    failure.lasting = code in _LASTING
    return failure
