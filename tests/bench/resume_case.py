"""What a killed daemon fetches again: `kill -9` half way, a new start, and the bytes that come down then."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from shutil import rmtree

from tests.bench.case import Case, Options
from tests.bench.data import MIB, on_tmpfs, scratch, write
from tests.bench.measure import TIMEOUT
from tests.bench.report import Found
from tests.bench.s3_cases import URI, model_folder, s3_server
from tests.daemon_process import DaemonProcess
from tests.servers import CountingProxy

PATIENCE = 0.002  # Seconds between two looks at the counter.


def _measure(options: Options) -> Found:
    sizes = [512 * MIB] * 4
    with scratch(2 * sum(sizes)) as folder:
        return killed_half_way(folder, "S3, 4 files of 512 MiB, the daemon killed half way", sizes, options)


def killed_half_way(folder: Path, title: str, sizes: Sequence[int], options: Options, **settings: object) -> Found:
    write(model_folder(folder), sizes)
    taken: list[tuple[float, float]] = []
    with s3_server(folder) as server, CountingProxy(server.endpoint) as proxy:
        for _ in range(options.rounds):
            daemon = DaemonProcess(folder / "target", s3_endpoint=proxy.endpoint, **settings)
            daemon.environment = dict(server.credentials)
            try:
                taken.append(_once(daemon, proxy, sum(sizes)))
            finally:
                daemon.close()
                rmtree(folder / "target")
    first, second = (statistics.median(column) for column in zip(*taken, strict=True))
    total = sum(sizes)
    over = statistics.median((again - (total - before)) / (total - before) * 100 for before, again in taken)
    rows = {"before the kill": {"fetched_MB": first / 1e6}, "after it": {"fetched_MB": second / 1e6}}
    notes = {"fetched again, % of what was missing": over}
    return Found(title, options.rounds, rows, notes, "tmpfs" if on_tmpfs(folder) else "disk")


def _once(daemon: DaemonProcess, proxy: CountingProxy, size: int) -> tuple[float, float]:
    """Bytes that came down before the kill, and after it."""
    proxy.reset()
    daemon.start()
    with ThreadPoolExecutor(1) as pool, daemon.client(timeout=60) as client:
        pulled = pool.submit(client.pull, URI, timeout=TIMEOUT)
        _wait_for(proxy, size // 2, pulled)
        daemon.kill()
        before = _settled(proxy)
        if before >= size:
            raise RuntimeError("the model was here before the daemon was killed")
        proxy.reset()
        daemon.start()  # The caller notices nothing but the time it takes.
        pulled.result()
    return before, proxy.bytes_down


def _wait_for(proxy: CountingProxy, count: int, pulled: Future[object]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while proxy.bytes_down < count:
        if pulled.done() or time.monotonic() > deadline:
            raise RuntimeError(f"the pull ended, or stood still, after {proxy.bytes_down} bytes")
        time.sleep(PATIENCE)


def _settled(proxy: CountingProxy) -> int:
    """The count, once nothing comes any more through connections that are being torn down."""
    count = -1
    while count != proxy.bytes_down:
        count = proxy.bytes_down
        time.sleep(0.1)  # Nothing has come for this long: the connections are gone.
    return count


RESUME_CASE = Case("resume", _measure)
