"""Reading ahead: real files, dropped from the page cache of a real disk first."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cached import Client, Lease
from cached.prefetch.prefetch import WINDOW, Figures, Prefetch
from tests.daemon_process import DaemonProcess
from tests.page_cache import forget, on_a_disk, resident

SHARDS = [f"model-{number:05}-of-00002.safetensors" for number in (1, 2)]
SIZE = 3 * WINDOW + 4096


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    with on_a_disk() as folder:
        yield folder


@pytest.fixture(scope="module")
def written(disk: Path) -> dict[str, Path]:
    folder = disk / "model"
    folder.mkdir()
    for name in SHARDS:
        (folder / name).write_bytes(os.urandom(1 << 20) * (SIZE >> 20) + bytes(SIZE % (1 << 20)))
    (folder / "config.json").write_bytes(b"{}")
    (folder / "film.mp4").write_bytes(bytes(WINDOW * 5))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict(enumerate(SHARDS))}))
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture
def cold(written: dict[str, Path]) -> dict[str, Path]:
    """The files of a model, by their names, none of which is in the page cache."""
    for path in written.values():
        forget(path)
    assert {resident(path) for path in written.values()} == {0}
    return written


def folder_of(files: dict[str, Path]) -> str:
    return str(files["config.json"].parent)


def total(files: dict[str, Path]) -> int:
    return sum(path.stat().st_size for path in files.values() if path.name != "film.mp4")


def test_a_cold_model_is_there_afterwards_and_what_no_engine_reads_is_not(cold: dict[str, Path]) -> None:
    figures = Prefetch(folder_of(cold)).wait()
    assert figures.total == figures.read + figures.resident == total(cold)
    assert figures.read >= SIZE  # The kernel reads ahead, too, so not all of it is counted.
    assert all(resident(cold[name]) == SIZE for name in SHARDS)
    assert resident(cold["film.mp4"]) == 0


def test_a_second_caller_reads_nothing(cold: dict[str, Path]) -> None:
    Prefetch(folder_of(cold)).wait()
    assert Prefetch(folder_of(cold)).wait() == Figures(total(cold), resident=total(cold))


def test_only_what_is_not_there_is_read(cold: dict[str, Path]) -> None:
    cold[SHARDS[0]].read_bytes()
    figures = Prefetch(folder_of(cold)).wait()
    assert figures.resident >= SIZE
    assert figures.read <= total(cold) - SIZE
    assert resident(cold[SHARDS[1]]) == SIZE


def test_the_share_of_the_memory_bounds_it_and_the_first_files_go_first(cold: dict[str, Path]) -> None:
    figures = Prefetch(folder_of(cold), share=0.5, threads=1, memory=lambda: 4 * WINDOW).wait()
    assert 0 < figures.read <= 2 * WINDOW
    assert figures.total == figures.read + figures.resident + figures.skipped
    assert resident(cold["config.json"]) > 0
    assert resident(cold[SHARDS[0]]) >= WINDOW
    assert resident(cold[SHARDS[1]]) == 0


def test_without_memory_nothing_is_read(cold: dict[str, Path]) -> None:
    assert Prefetch(folder_of(cold), memory=lambda: 0).wait() == Figures(total(cold), skipped=total(cold))
    assert resident(cold[SHARDS[0]]) == 0


def test_callers_at_once_share_the_files_out(cold: dict[str, Path]) -> None:
    with cold[SHARDS[0]].open("rb") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)  # What another caller does while it reads that one.
        seen: list[int] = []

        def memory() -> int:
            seen.append(resident(cold[SHARDS[1]]))
            return 1 << 40 if resident(cold[SHARDS[0]]) == 0 or seen[-1] == SIZE else 0

        assert Prefetch(folder_of(cold), threads=1, memory=memory).wait().skipped == 0
        assert all(resident(cold[name]) == SIZE for name in SHARDS)


def test_four_processes_at_once_read_each_file_once(cold: dict[str, Path]) -> None:
    """By the kernel's count: `read` has what one of them waited for while another's was on its way from the disk."""
    code = (
        "import dataclasses, json, sys; from pathlib import Path; from cached.prefetch.prefetch import Prefetch\n"
        "def from_disk(): return int(Path('/proc/self/io').read_text().partition('\\nread_bytes:')[2].split()[0])\n"
        "sys.stdin.read(1); before = from_disk(); figures = dataclasses.asdict(Prefetch(sys.argv[1]).wait())\n"
        "print(json.dumps([from_disk() - before, figures]))"
    )
    command = [sys.executable, "-c", code, folder_of(cold)]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(4)]
    for process in started:
        assert process.stdin
        process.stdin.write(b"g")
        process.stdin.flush()
    said = [json.loads(process.communicate(timeout=60)[0]) for process in started]
    assert all(figures["read"] + figures["resident"] == total(cold) for _, figures in said)
    assert total(cold) <= sum(from_disk for from_disk, _ in said) < 1.2 * total(cold)
    assert all(resident(cold[name]) == SIZE for name in SHARDS)


def test_cancelled_it_ends_without_the_rest(cold: dict[str, Path]) -> None:
    asked, go = threading.Event(), threading.Event()
    times: list[int] = []

    def memory() -> int:
        times.append(1)
        asked.set()
        assert go.wait(30)
        return 1 << 40

    prefetch = Prefetch(folder_of(cold), threads=1, memory=memory)
    assert asked.wait(30)
    running = not prefetch.done
    prefetch.cancel()
    go.set()
    assert prefetch.wait().read == 0
    assert running and prefetch.done
    assert len(times) == 1  # The rest was not gone through.
    with cold["config.json"].open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # Nothing is claimed any more.


def test_an_index_that_is_none_and_links_to_nowhere_are_passed_over(tmp_path: Path) -> None:
    index = '{"weight_map": [1]}'
    (tmp_path / "model.safetensors.index.json").write_text(index)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    (tmp_path / "a.safetensors").symlink_to("nowhere")
    assert Prefetch(str(tmp_path)).wait() == Figures(total=len(index) + 1, resident=len(index) + 1)


def test_a_model_that_has_gone_is_nobodys_trouble(tmp_path: Path) -> None:
    assert Prefetch(str(tmp_path / "gone")).wait() == Figures()


def test_a_lease_reads_its_model_ahead(disk: Path, daemon: DaemonProcess, make_model: Callable[..., Path]) -> None:
    daemon.root = disk / "root"
    source = make_model()
    daemon.start(protocols=["file"], file_roots=[str(source.parent)])
    with Client(daemon.socket) as client, client.acquire(f"file://{source}") as lease:
        assert isinstance(lease, Lease)
        weights = Path(lease.path, "model.safetensors")
        forget(weights)
        assert resident(weights) == 0
        figures = lease.prefetch().wait()
        assert figures.total == lease.size
        assert resident(weights) >= weights.stat().st_size


def test_importing_the_client_does_not_import_it() -> None:
    code = "import cached, sys; sys.exit('cached.prefetch.prefetch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
