"""Ten thousand models beside one: what a start, a list and a hit cost when there are many."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench.callers import time_hits
from tests.bench.case import Case, Options
from tests.bench.data import on_tmpfs, scratch
from tests.bench.many import OWN, build, ref, revision
from tests.bench.report import Found
from tests.daemon_process import DaemonProcess

MODELS = 10_000
SETTLE_SECONDS = 3.0  # The index is checkpointed and the workers are up by then.

Figures = dict[str, list[float]]


def _measure(options: Options) -> Found:
    with scratch(1 << 30) as folder:
        return grown(folder, (1, MODELS), options)


def grown(
    folder: Path, sizes: tuple[int, int], options: Options, hits: int = 500, settle: float = SETTLE_SECONDS
) -> Found:
    """Two daemons at once, so that hits are compared in the same minute."""
    taken: dict[int, Figures] = {models: {} for models in sizes}
    with ExitStack() as stack:
        daemons = {models: stack.enter_context(_daemon(folder / f"{models}", models)) for models in sizes}
        for models, daemon in daemons.items():
            _starts(daemon, taken[models], options.rounds, settle)
        for _ in range(options.rounds):
            for models, daemon in daemons.items():
                _lists(daemon, models, taken[models])
                _hits(daemon, models, taken[models], hits)
    rows = {_name(models): {name: statistics.median(each) for name, each in taken[models].items()} for models in sizes}
    small, large = (taken[models]["p50_ms"] for models in sizes)
    ratio = statistics.median(theirs / ours for ours, theirs in zip(small, large, strict=True))
    notes = {"a hit among many to a hit in a store of one, p50": ratio}
    return Found(
        "Models in the store, all files tiny", options.rounds, rows, notes, "tmpfs" if on_tmpfs(folder) else "disk"
    )


def _name(models: int) -> str:
    return f"{models:,} models of {OWN} files"


@contextmanager
def _daemon(folder: Path, models: int) -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(folder, max_age=3600, workers=1)
    build(daemon.root, models)
    try:
        yield daemon
    finally:
        daemon.close()


def _starts(daemon: DaemonProcess, taken: Figures, rounds: int, settle: float) -> None:
    """Once without its index, then with it, up to where the socket answers; the last one runs on."""
    _note(taken, "rebuilt_s", _start(daemon))
    for _ in range(rounds):
        time.sleep(settle)
        daemon.stop()
        _note(taken, "start_s", _start(daemon))
    time.sleep(settle)
    assert daemon.process
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    kilobytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    _note(taken, "resident_MB", kilobytes * 1024 / 1e6)


def _start(daemon: DaemonProcess) -> float:
    before = time.monotonic()
    daemon.start()
    return time.monotonic() - before


def _lists(daemon: DaemonProcess, models: int, taken: Figures) -> None:
    for name, options in (("ls_s", ()), ("ls_json_s", ("--json",))):
        before = time.monotonic()
        answer = daemon.cli("ls", *options)
        _note(taken, name, time.monotonic() - before)
        if answer.returncode or answer.stdout.count(revision(models - 1)) == 0:
            raise RuntimeError(f"cached ls does not list what is there: {answer.stderr}")


def _hits(daemon: DaemonProcess, models: int, taken: Figures, hits: int) -> None:
    wanted = ref(models // 2)
    found = time_hits(str(daemon.socket), wanted.uri, str(wanted.revision), 1, hits)
    for which, milliseconds in found.items():
        _note(taken, f"{which}_ms", milliseconds)


def _note(taken: Figures, name: str, value: float) -> None:
    taken.setdefault(name, []).append(value)


SCALE_CASE = Case("scale", _measure)
