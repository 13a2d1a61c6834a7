"""A clock that is set, far ahead and far back, while the daemon runs and while it does not: libfaketime's."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_process import DaemonProcess
from tests.holder import Holder
from tests.programs import program
from tests.waiting import until

Model = Callable[..., Path]

YEARS = 10 * 365.25 * 86400
DATED = {  # Every time in the index that is of something that has happened.
    "snapshot": ("created_at", "used_at"),
    "blob": ("created_at", "checked_at", "hashed_at"),
    "resolution": ("checked_at",),
    "reservation": ("created_at",),
    "pin": ("created_at",),
    "lease": ("since",),
    "event": ("at",),
}


# libfaketime 0.9.10 has every clock_nanosleep to a time of the monotonic clock fail, which it leaves alone otherwise.
SLEEP = """import select, time
time.sleep = lambda seconds: select.select([], [], [], seconds)[3:]
"""


class Clock:
    """What time it is for the daemon and its workers; clocks that count from the boot are not touched."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(SLEEP)
        self._file = file = folder / "clock"
        self.environment = {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])),
            "LD_PRELOAD": _library(),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        self.set(0)

    def set(self, ahead: float) -> None:
        """Seconds from the real time."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead:+.0f}")
        os.replace(new, self._file)


def _library() -> str:
    """What `faketime` would preload; it names it by a path that the dynamic linker completes."""
    shown = subprocess.run(
        [program("faketime"), "-f", "+0", "printenv", "LD_PRELOAD"], capture_output=True, text=True, check=True
    )
    return shown.stdout.strip()


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[Clock]:
    yield Clock(tmp_path / "time")
    for left in Path("/dev/shm").glob("*faketime_s*_*"):  # What libfaketime shares with children, and never removes.
        if not Path("/proc", left.name.rpartition("_")[2]).exists():
            left.unlink(missing_ok=True)


@pytest.fixture
def local(clock: Clock, daemon: DaemonProcess, tmp_path: Path) -> DaemonProcess:
    daemon.environment.update(clock.environment)
    daemon.config(protocols=["file"], file_roots=[str(tmp_path / "models")], high_watermark=1.0, low_watermark=1.0)
    return daemon


@pytest.fixture
def holder(local: DaemonProcess) -> Iterator[Holder]:
    with Holder(local.socket) as started:
        yield started


def index(local: DaemonProcess, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(f"file:{local.root}/index.db?mode=ro", uri=True) as db:
        return db.execute(sql).fetchall()


def gc(local: DaemonProcess) -> list[str]:
    """What goes when one byte is wanted: the least recently used."""
    with local.client() as client:
        return [each["source"] for each in client.call("POST", "/v1/gc", {"free": 1})["removed"]]


def order(local: DaemonProcess) -> list[str]:
    """The names of the models, the least recently used first."""
    with local.client() as client:
        planned = client.call("POST", "/v1/gc", {"free": 1 << 40, "dry_run": True})["removed"]
    return [Path(each["source"]).name for each in planned]


@pytest.mark.parametrize("ahead", [YEARS, -YEARS])
def test_a_clock_that_is_set_changes_nothing_for_holders_and_hits(
    local: DaemonProcess, clock: Clock, holder: Holder, make_model: Model, ahead: float
) -> None:
    held, other = (f"file://{make_model(name)}" for name in ("held", "other"))
    with local.start().client() as client:
        path = holder.acquire(held)["path"]
        client.pull(other)
        for jump in (ahead, 0, -ahead, 0):
            clock.set(jump)
            for uri in (held, other):
                found = client.pull(uri)
                assert (found.hit, found.stale) == (True, False)
                assert client.path(uri).hit
            (lease,) = client.call("GET", "/v1/leases")["leases"]
            assert (lease["pid"], lease["held"]) == (holder.process.pid, True)
        assert gc(local) == [other]
        assert gc(local) == []
        assert Path(path).is_dir()
        holder.kill()
        assert gc(local) == [held]


@pytest.mark.parametrize("ahead", [YEARS, -YEARS])
def test_what_was_used_last_goes_last_whatever_the_clock_said_then(
    local: DaemonProcess, clock: Clock, make_model: Model, ahead: float
) -> None:
    uris = {name: f"file://{make_model(name)}" for name in "abcd"}
    with local.start().client() as client:

        def use(name: str) -> None:
            client.path(uris[name])
            client.call("GET", "/v1/snapshots")  # Which writes down who was used.

        for name in "abc":
            client.pull(uris[name])
            use(name)
        clock.set(ahead)
        use("a")
        assert order(local) == ["b", "c", "a"]
        clock.set(0)
        use("b")
        assert order(local) == ["c", "a", "b"]
        client.pull(uris["d"])
        use("c")
        assert order(local) == ["a", "b", "d", "c"]


@pytest.mark.parametrize("index_is", ["kept", "lost"])
def test_after_a_start_nothing_in_the_index_lies_in_the_future(
    local: DaemonProcess, clock: Clock, make_model: Model, index_is: str
) -> None:
    """The clock was ten years ahead, and was set back while nobody ran."""
    uris = [f"file://{make_model(name)}" for name in "ab"]
    clock.set(YEARS)
    with local.start().client() as client:
        for uri in uris:
            client.pull(uri)
        client.pull(uris[0], keep=3600)
        lease = client.acquire(uris[0])
        client.call("GET", "/v1/snapshots")
    local.stop()
    now = time.time()
    if index_is == "lost":
        for path in local.root.glob("index.db*"):
            path.unlink()
    clock.set(0)
    with local.start().client() as client:
        for table, columns in DATED.items():
            for column in columns:
                late = index(local, f"SELECT {column} FROM {table} WHERE {column} > {now + 3600}")
                assert late == [], f"{table}.{column}"
        found = [client.pull(uri) for uri in uris]
        assert all(ready.hit for ready in found), found
        if index_is == "kept":
            assert order(local) == ["b"], "the other is pinned and leased"
            assert index(local, f"SELECT 1 FROM pin WHERE until > {now + 7200}") == [], "an hour is an hour"
        assert gc(local) == [uris[1]]
        lease.release()


def test_the_order_of_use_outlives_a_clock_that_was_set_back(
    local: DaemonProcess, clock: Clock, make_model: Model
) -> None:
    clock.set(YEARS)
    with local.start().client() as client:
        for name in "cab":
            client.pull(f"file://{make_model(name)}")
    local.stop()
    clock.set(0)
    local.start()
    assert order(local) == ["c", "a", "b"]


def test_a_pin_can_be_taken_back_and_a_new_one_ends_whatever_the_clock_says(
    local: DaemonProcess, clock: Clock, make_model: Model
) -> None:
    uri = f"file://{make_model()}"
    clock.set(YEARS)
    with local.start().client() as client:
        client.pull(uri, keep=1)
        clock.set(0)
        client.call("POST", "/v1/unpin", {"ref": uri})
        client.call("POST", "/v1/pin", {"ref": uri, "keep": 1})
        until(lambda: gc(local) == [uri])


@pytest.mark.parametrize("ahead", [YEARS, -YEARS])
def test_no_reservation_is_kept_for_ever(local: DaemonProcess, clock: Clock, ahead: float) -> None:
    """Of a download that broke off under a clock that was wrong, and that nobody asks for again."""
    local.start()
    local.stop()
    key = "a" * 64
    (local.root / "ingest" / f"{key}.part").write_bytes(bytes(1000))
    with sqlite3.connect(local.root / "index.db") as db:
        row = key, time.time() + ahead
        db.execute("INSERT INTO reservation (key, bytes, size, created_at) VALUES (?, 1000, 1000, ?)", row)
    local.start()
    assert local.status()["reserved"] in (0, 1000)
    local.stop()
    clock.set(2 * 86400)
    local.start()
    assert local.status()["reserved"] == 0
    assert local.files("ingest") == []
