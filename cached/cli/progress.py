"""The progress of a pull: a bar when stderr is a terminal, an occasional line when it is not."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from cached.cli.output import human_size, printable
from cached.model import Progress
from cached.uris import display_name

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

LINE_SECONDS = 5.0  # Between two plain lines; a log should tell a stall from work, and not drown.
WINDOW_SECONDS = 10.0  # Over which the rate is averaged.


class Rate:
    """Measure bytes per second over the last WINDOW_SECONDS. Bytes that the node already had do not count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, progress: Progress) -> None:
        now = self._clock()
        self._samples.append((now, progress.done_bytes - progress.cached_bytes))
        while len(self._samples) > 2 and now - self._samples[0][0] > WINDOW_SECONDS:
            self._samples.popleft()

    @property
    def per_second(self) -> float:
        if len(self._samples) < 2:
            return 0.0
        (start, before), (end, after) = self._samples[0], self._samples[-1]
        return max(0.0, (after - before) / (end - start)) if end > start else 0.0


def describe(progress: Progress, rate: float) -> tuple[str, str, str, str]:
    """Return bytes, rate, time left and files, as text; empty where nothing is known yet."""
    if not progress.total_bytes and not progress.total_files:
        return "", "", "", ""
    amount = f"{human_size(progress.done_bytes)} of {human_size(progress.total_bytes)}"
    files = f"{progress.done_files}/{progress.total_files} files"
    if rate < 1:
        return amount, "", "", files
    left = round((progress.total_bytes - progress.done_bytes) / rate)
    return amount, f"{human_size(int(rate))}/s", f"{left // 60}:{left % 60:02d} left", files


class Display(Protocol):
    def __call__(self, progress: Progress) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Silent:
    """Show nothing."""

    def __call__(self, progress: Progress) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class Lines(Silent):
    """Print a line on stderr at most every LINE_SECONDS, and none for a pull that is done sooner."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = printable(display_name(name))
        self._clock = clock
        self._last = clock()
        self._rate = Rate(clock)

    def __call__(self, progress: Progress) -> None:
        self._rate.add(progress)
        if self._clock() - self._last < LINE_SECONDS:
            return
        self._last = self._clock()
        known = [part for part in describe(progress, self._rate.per_second) if part]
        said = " ".join([progress.phase, ", ".join(known)]).rstrip()
        print(f"cached: {self._name}: {printable(said)}", file=sys.stderr, flush=True)


class Terminal(Silent):
    """Draw a bar on stderr. It appears with the first progress, so that a hit draws nothing."""

    def __init__(self, name: str) -> None:
        self._name = printable(display_name(name))
        self._rate = Rate()
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __call__(self, progress: Progress) -> None:
        self._rate.add(progress)
        amount, rate, left, files = describe(progress, self._rate.per_second)
        if self._bar is None or self._task is None:
            self._bar = _bar()
            self._task = self._bar.add_task(self._name, total=None, phase="", amount="", rate="", left="", files="")
            self._bar.start()
        self._bar.update(
            self._task,
            total=progress.total_bytes or None,
            completed=progress.done_bytes,
            phase=printable(progress.phase),
            amount=amount,
            rate=rate,
            left=left,
            files=files,
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _bar() -> Bar:
    # Imported late: a hit, a pipe and every other command do without it.
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = [f"{{task.fields[{name}]}}" for name in ("phase", "amount", "rate", "left", "files")]
    return RichProgress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        *(TextColumn(column, markup=False) for column in columns),
        console=Console(stderr=True),
    )


def display(name: str, quiet: bool) -> Display:
    """Return the display that suits stderr."""
    if quiet:
        return Silent()
    return Terminal(name) if sys.stderr.isatty() else Lines(name)
