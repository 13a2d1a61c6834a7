"""Hits while a fill runs: does loading what is here wait for what is not?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import rmtree

from cached import Client
from tests.bench.callers import percentiles
from tests.bench.case import Case, Options
from tests.bench.data import MIB, on_tmpfs, scratch, write
from tests.bench.measure import TIMEOUT
from tests.bench.report import Found
from tests.bench.s3_cases import BUCKET, URI, model_folder, s3_server
from tests.daemon_process import DaemonProcess

WARM = f"s3://{BUCKET}/warm"
IDLE_SECONDS = 1.0


def _measure(options: Options) -> Found:
    sizes = [512 * MIB] * 4
    with scratch(2 * sum(sizes)) as folder:
        return hits_during_fill(folder, "Hits, one caller, while 4 files of 512 MiB come from S3", sizes, options)


def hits_during_fill(folder: Path, title: str, sizes: Sequence[int], options: Options) -> Found:
    """All hits of all rounds together; beside them those of the idle daemon just before."""
    write(model_folder(folder), sizes)
    write(folder / "origin" / BUCKET / "warm", [MIB, 1000])
    idle: list[float] = []
    busy: list[float] = []
    filling = 0.0
    with s3_server(folder) as server:
        for _ in range(options.rounds):
            daemon = DaemonProcess(folder / "target", s3_endpoint=server.endpoint, max_age=3600)
            daemon.environment = dict(server.credentials)
            try:
                daemon.start()
                filling += _once(daemon, idle, busy)
            finally:
                daemon.close()
                rmtree(folder / "target")
    rows = {
        name: {"hits": len(taken), **{f"{which}_ms": value for which, value in percentiles(taken).items()}}
        for name, taken in (("idle", idle), ("during the fill", busy))
    }
    notes = {"the fills came at, MB/s": sum(sizes) * options.rounds / 1e6 / filling}
    return Found(title, options.rounds, rows, notes, "tmpfs" if on_tmpfs(folder) else "disk")


def _once(daemon: DaemonProcess, idle: list[float], busy: list[float]) -> float:
    """Adds the milliseconds of each hit; returns the seconds of the fill."""
    with daemon.client(timeout=60) as caller, daemon.client(timeout=60) as filler, ThreadPoolExecutor(1) as pool:
        caller.pull(WARM)
        until = time.monotonic() + IDLE_SECONDS
        _hit(caller, lambda: time.monotonic() < until, idle)
        before = time.monotonic()
        # Its thread only waits for an answer, so it takes nothing from the caller's time.
        filled = pool.submit(filler.pull, URI, timeout=TIMEOUT)
        _hit(caller, lambda: not filled.done(), busy)
        filled.result()
        return time.monotonic() - before


def _hit(client: Client, going: Callable[[], bool], taken: list[float]) -> None:
    while going():
        before = time.perf_counter()
        lease = client.acquire(WARM)
        taken.append((time.perf_counter() - before) * 1000)
        lease.release()
        if not lease.hit:
            raise RuntimeError(f"{WARM} was fetched again: this is no measurement of a hit")


BUSY_CASE = Case("hits-during-fill", _measure)
