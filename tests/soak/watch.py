"""How large the daemon is, looked at every now and then: memory, descriptors, index and log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.daemon_process import DaemonProcess, _descendants

EVERY = 1.0
KINDS = ("memory", "descriptors", "index", "log")


@dataclass(frozen=True)
class Sample:
    """Bytes; of memory and descriptors those of the daemon and its workers together."""

    memory: int
    descriptors: int
    index: int
    log: int


@dataclass
class Watch:
    """Samples in order, taken by a thread."""

    daemon: DaemonProcess
    samples: list[Sample] = field(default_factory=list)
    died: bool = False

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._over.wait(EVERY):
            assert self.daemon.process
            if self.daemon.process.poll() is not None:
                self.died = True
                return
            pids = [self.daemon.process.pid, *_descendants(self.daemon.process.pid)]
            index = sum(path.stat().st_size for path in self.daemon.root.glob("index.db*") if path.exists())
            memory, descriptors = sum(map(_resident, pids)), sum(map(_descriptors, pids))
            self.samples.append(Sample(memory, descriptors, index, self.daemon.log.stat().st_size))

    def around(self, share: float) -> dict[str, int]:
        """The median of the samples around that share of the time."""
        at, width = int(share * (len(self.samples) - 1)), max(1, len(self.samples) // 20)
        near = self.samples[max(0, at - width) : at + width + 1]
        return {kind: sorted(getattr(sample, kind) for sample in near)[len(near) // 2] for kind in KINDS}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()


def wait_until(moment: float, meanwhile: Callable[[], object]) -> None:
    """Seconds since the epoch; `meanwhile` is called now and then."""
    while (left := moment - time.time()) > 0:
        time.sleep(min(left, 0.5))
        meanwhile()


def _resident(pid: int) -> int:
    """Private and shared-memory bytes; what is shared by fork counts once for each."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


def _descriptors(pid: int) -> int:
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return 0
