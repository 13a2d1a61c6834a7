"""The processes that fetch: what the daemon makes of their death, and they of its."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cached import WorkerLost
from cached.config import Config, Size
from cached.daemon.transfer.workers import processes
from tests.daemon.test_fetch import fetching
from tests.daemon_process import DaemonProcess
from tests.servers import CountingProxy, RcloneS3
from tests.waiting import until

MakeModel = Callable[..., Path]

MIB = 1 << 20
PIECE = 16 * MIB
SHARD = os.urandom(6 * PIECE + 5)
SMALL = {f"part-{number:03}.json": os.urandom(3000) for number in range(300)}


@pytest.fixture(scope="module")
def s3() -> Iterator[RcloneS3]:
    with RcloneS3() as server:
        server.put("bucket", "large/model.safetensors", SHARD)
        server.put("bucket", "other/config.json", b"{}")
        for name, data in SMALL.items():
            server.put("bucket", f"small/{name}", data)
        yield server


@pytest.fixture
def fetcher(daemon: DaemonProcess, s3: RcloneS3, proxy: CountingProxy) -> DaemonProcess:
    daemon.environment.update(s3.credentials)
    return daemon.start(s3_endpoint=proxy.endpoint, s3_region="us-east-1", workers=2, retries=2)


@pytest.mark.parametrize("which", [0, 1])
def test_a_worker_that_is_killed_is_replaced_and_the_fill_goes_on_with_what_had_landed(
    fetcher: DaemonProcess, proxy: CountingProxy, which: int
) -> None:
    first, seen = fetcher.workers(), threading.Event()
    with fetcher.client() as client, ThreadPoolExecutor(1) as pool:
        pulled = pool.submit(client.pull, "s3://bucket/large", progress=fetching(seen, 3 * PIECE))
        assert seen.wait(60)
        os.kill(first[which], signal.SIGKILL)
        path = Path(pulled.result(120).path)
    assert (path / "model.safetensors").read_bytes() == SHARD
    assert proxy.bytes_down < len(SHARD) + 5 * PIECE  # Four connections, each with a piece that broke off.
    assert not set(fetcher.workers()) & set(first)
    assert fetcher.status()["workers_lost"] == 1
    assert "workers.undead" not in fetcher.log.read_text()  # The others were ended, not waited for.
    assert fetcher.files("ingest") == []


def test_small_files_are_asked_for_again_when_their_worker_is_killed(
    fetcher: DaemonProcess, proxy: CountingProxy
) -> None:
    first, seen = fetcher.workers(), threading.Event()
    with fetcher.client() as client, ThreadPoolExecutor(1) as pool:
        pulled = pool.submit(client.pull, "s3://bucket/small", progress=fetching(seen))
        assert seen.wait(60)
        os.kill(first[1], signal.SIGKILL)
        path = Path(pulled.result(120).path)
    assert {name: (path / name).read_bytes() for name in SMALL} == SMALL
    assert fetcher.files("ingest") == []


def test_a_worker_that_was_killed_while_it_had_nothing_to_do_is_missed_by_nobody(fetcher: DaemonProcess) -> None:
    for pid in fetcher.workers():
        os.kill(pid, signal.SIGKILL)
    with fetcher.client() as client:
        assert client.pull("s3://bucket/other").size == 2


def test_hits_go_on_while_the_workers_are_stopped(fetcher: DaemonProcess) -> None:
    with fetcher.client() as client:
        client.pull("s3://bucket/other")
        for pid in fetcher.workers():
            os.kill(pid, signal.SIGSTOP)
        assert client.pull("s3://bucket/other", timeout=5).hit


def test_a_moving_name_is_served_stale_when_the_workers_do_not_answer_in_time(fetcher: DaemonProcess) -> None:
    fetcher.stop()
    fetcher.start(check_timeout="500ms")
    with fetcher.client() as client:
        client.pull("s3://bucket/other")
        for pid in fetcher.workers():
            os.kill(pid, signal.SIGSTOP)
        ready = client.pull("s3://bucket/other", max_age=0, timeout=20)
    assert (ready.hit, ready.stale) == (True, True)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_workers_end_with_the_daemon_however_that_ends(fetcher: DaemonProcess, end: str) -> None:
    first = fetcher.workers()
    getattr(fetcher, end)()
    until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() and _runs(pid) for pid in first))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_leave_it_to_the_daemon_to_end_them(fetcher: DaemonProcess, number: signal.Signals) -> None:
    first = fetcher.workers()
    for pid in first:
        os.kill(pid, number)
    with fetcher.client() as client:
        assert client.pull("s3://bucket/other").size == 2
    assert fetcher.workers() == first


def test_no_credential_is_in_a_title_or_the_environment_of_a_worker_that_the_daemon_did_not_have(
    fetcher: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-1f6a")
    with fetcher.client() as client:
        client.pull("s3://bucket/other")
    for pid in fetcher.workers():
        for name in ("cmdline", "environ"):
            assert b"canary-1f6a" not in Path(f"/proc/{pid}/{name}").read_bytes()
    assert "canary-1f6a" not in fetcher.log.read_text()


# The daemon with another program in its workers' place.
BROKEN = """
import sys
from cached.cli.main import main
from cached.daemon.transfer import worker_pool
worker_pool.COMMAND = ("/bin/false",)
sys.argv = sys.argv[1:]
sys.exit(main())
"""


def start_broken(daemon: DaemonProcess) -> None:
    daemon.spawn((sys.executable, "-c", BROKEN))
    until(lambda: daemon.socket.exists())


def test_with_workers_that_cannot_start_what_is_cached_is_served_and_the_rest_fails_soon(
    fetcher: DaemonProcess,
) -> None:
    with fetcher.client() as client:
        client.pull("s3://bucket/other")
    fetcher.stop()
    start_broken(fetcher)
    with fetcher.client() as client, ThreadPoolExecutor(20) as pool:
        waiting = [pool.submit(client.pull, f"s3://bucket/missing-{number}", timeout=20) for number in range(20)]
        ready = client.pull("s3://bucket/other", max_age=0, timeout=20)
        assert (ready.hit, ready.stale) == (True, True)
        assert {type(one.exception(30)) for one in waiting} == {WorkerLost}
    assert fetcher.stop() == 0


def test_a_setting_that_breaks_one_protocol_leaves_the_others(daemon: DaemonProcess, make_model: MakeModel) -> None:
    daemon.environment["SSL_CERT_FILE"] = "/nonexistent.pem"
    folder = make_model()
    daemon.start(protocols=["file", "hf"], file_roots=[str(folder.parent)])
    with daemon.client() as client:
        assert client.pull(f"file://{folder}").size > 0


def test_a_clean_stop_is_no_loss(fetcher: DaemonProcess) -> None:
    fetcher.workers()
    assert fetcher.stop() == 0
    assert "workers.lost" not in fetcher.log.read_text()


def test_workers_share_the_claim_on_the_root_which_is_free_once_they_are_gone(fetcher: DaemonProcess) -> None:
    lock = fetcher.root / "FORMAT"
    for pid in fetcher.workers():
        assert lock in [link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir()]
    fetcher.kill()

    def free() -> bool:
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    until(free)


def test_workers_that_hang_end_with_the_daemon_too(fetcher: DaemonProcess) -> None:
    """A closed socket tells only those that listen."""
    first = fetcher.workers()
    for pid in first:
        os.kill(pid, signal.SIGSTOP)
    fetcher.kill()
    until(lambda: not any(_runs(pid) for pid in first))


def test_who_asks_again_right_after_giving_up_gets_the_model(fetcher: DaemonProcess) -> None:
    seen = threading.Event()
    with fetcher.client() as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.pull, "s3://bucket/large", progress=fetching(seen, PIECE), abandon=True, timeout=0.8)
        assert first.exception(60) is not None
        path = Path(client.pull("s3://bucket/large", timeout=60).path)
    assert (path / "model.safetensors").read_bytes() == SHARD


def test_as_many_as_cores_but_no_more_than_four_and_one_where_bandwidth_is_bound() -> None:
    cores = len(os.sched_getaffinity(0))
    assert processes(Config()) == min(4, cores)
    assert processes(Config(workers=7)) == 7
    assert processes(Config(workers=7, bandwidth=Size(1000))) == 1


def test_a_program_that_is_not_asked_by_a_daemon_ends(tmp_path: Path) -> None:
    """It names another process than its parent, so its parent may be dead already."""
    command = [sys.executable, "-P", "-m", "cached.worker", "1", "0"]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, timeout=60).returncode == 1
