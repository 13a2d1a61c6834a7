"""The cost limit of one query to a source, and its cancellation when no caller waits any more.

A listing ends when its remote says so, and a remote may never say so. So the worker gives each query a Budget. All code
that fetches pages, reads their bodies or iterates over their entries charges the Budget of its context, wherever it
runs: in a source, in a client that sources share, in a thread or on an event loop that these use.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from cached.errors import SourceUnavailable, TooLarge

FILES_A_PAGE = 50  # At least, on average: S3, GCS and the Hub give 1,000, Azure 5,000; servers may give fewer …
SPARE_PAGES = 100  # … and a few pages need not hold any.
BYTES_A_FILE = 1024  # At most, on average, in a listing for each file.
SPARE_BYTES = 32 << 20


class Budget:
    """Limit the pages, bytes, files and seconds of one query. `cancel` may be called from any thread; all other methods
    only by the code that does the work."""

    def __init__(self, files: int, seconds: float) -> None:
        self.max_files, self.seconds = files, seconds
        self.max_pages = SPARE_PAGES + files // FILES_A_PAGE
        self.max_bytes = SPARE_BYTES + files * BYTES_A_FILE
        self._deadline = math.inf
        self._cancelled = threading.Event()
        self._pages = self._bytes = 0

    @classmethod
    def unbounded(cls) -> Budget:
        """Return a budget for a query whose request bounds its cost: it only reports that no caller waits any more."""
        budget = cls(0, math.inf)
        budget.max_files = budget.max_pages = budget.max_bytes = sys.maxsize
        return budget

    def cancel(self) -> None:
        """Record that no caller waits any more."""
        self._cancelled.set()

    @contextmanager
    def spent_here(self) -> Iterator[None]:
        """Charge the work done in the block to this budget, whose time starts now. Raise as `check` does."""
        self._deadline = time.monotonic() + self.seconds
        token = _current.set(self)
        try:
            self.check()
            yield
        finally:
            _current.reset(token)

    def check(self) -> None:
        if self._cancelled.is_set():
            raise SourceUnavailable("Nobody waits for the source's answer any more; ask again.")
        if time.monotonic() > self._deadline:
            raise SourceUnavailable(
                f"The source has listed files for {self.seconds:g} seconds and has not come to an end; ask for a "
                "smaller place, or raise `listing_timeout`."
            )

    def page(self) -> None:
        self._pages += 1
        if self._pages > self.max_pages:
            raise self._too_large(f"The source lists files on more than {self.max_pages:,} pages")
        self.check()

    def read(self, count: int) -> None:
        self._bytes += count
        if self._bytes > self.max_bytes:
            raise self._too_large(f"The source's listing has more than {self.max_bytes:,} bytes")
        self.check()

    def listed(self, count: int) -> None:
        if count > self.max_files:
            raise TooLarge(
                f"The source lists more than {self.max_files:,} files there, which is the most that a model may have; "
                "ask for a smaller place, or raise `max_files`."
            )
        self.check()

    def _too_large(self, finding: str) -> TooLarge:
        return TooLarge(
            f"{finding}, too many for a model of at most {self.max_files:,} files; ask for a smaller place, or raise "
            "`max_files`."
        )


_current: ContextVar[Budget | None] = ContextVar("budget", default=None)


def check() -> None:
    """Raise SourceUnavailable if no caller waits any more, or if the query has taken too long."""
    if (budget := _current.get()) is not None:
        budget.check()


def page() -> None:
    """Charge one more request to the source. Raise TooLarge if there are too many, and as `check` does."""
    if (budget := _current.get()) is not None:
        budget.page()


def read(count: int) -> None:
    """Charge `count` more bytes of the source's answers. Raise TooLarge if there are too many, and as `check` does."""
    if (budget := _current.get()) is not None:
        budget.read(count)


def listed(count: int) -> None:
    """Report the number of files listed so far, including those that no pattern selects. Raise TooLarge if there are
    too many, and as `check` does."""
    if (budget := _current.get()) is not None:
        budget.listed(count)


def seconds_left(most: float) -> float:
    """Return the limit for one wait, in seconds: the time that is left, but no longer than `most`."""
    budget = _current.get()
    return most if budget is None else min(most, max(0.001, budget._deadline - time.monotonic()))
