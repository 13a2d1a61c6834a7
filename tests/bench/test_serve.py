"""The bench of Ray Serve measures what it says it does, with a model of some hundred kilobytes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.bench.case import Options
from tests.bench.nginx import nginx_path
from tests.bench.report import table
from tests.bench.s3_cases import model_folder
from tests.bench.serve_case import ANSWER, deployed
from tests.bench.serve_origins import Origin, hub_origin, s3_origin
from tests.bench.waits import FOLDER, note, noted
from tests.daemon_process import DaemonProcess, clean_environment
from tests.servers import HubStub

LARGE = 2_000_000
CONFIG = b'{"model_type": "llama"}'


@pytest.mark.parametrize(
    "opened",
    [
        s3_origin,
        pytest.param(hub_origin, marks=pytest.mark.skipif(nginx_path() is None, reason="nginx is not installed")),
    ],
)
def test_an_origin_counts_what_it_sends_and_a_hit_adds_nothing(
    opened: Callable[[Path], AbstractContextManager[Origin]], daemon: DaemonProcess, tmp_path: Path
) -> None:
    model_folder(tmp_path).mkdir(parents=True)
    (model_folder(tmp_path) / "config.json").write_bytes(CONFIG)
    (model_folder(tmp_path) / "model.safetensors").write_bytes(os.urandom(LARGE))
    with opened(tmp_path) as origin:
        daemon.environment.update(origin.secrets)
        daemon.start(max_age="1h", **origin.settings)
        before = origin.sent()
        with daemon.client() as client:
            assert client.pull(origin.source).size == LARGE + len(CONFIG)
            sent = origin.sent() - before
            assert LARGE <= sent < LARGE + 100_000, "headers and listings are small"
            assert client.pull(origin.source).hit
        assert origin.sent() - before < sent + ANSWER


def test_a_wait_that_was_noted_is_read_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert noted(tmp_path) == []
    note(time.time() - 5)
    note(time.time() - 50)
    assert sorted(round(wait.seconds) for wait in noted(tmp_path)) == [5, 50]
    assert all(abs(wait.at - time.time()) < 60 for wait in noted(tmp_path))


def test_what_would_not_fit_into_memory_is_not_begun(tmp_path: Path) -> None:
    model_folder(tmp_path).mkdir(parents=True)
    (model_folder(tmp_path) / "config.json").write_bytes(CONFIG)
    with s3_origin(tmp_path) as origin, pytest.raises(RuntimeError, match="--replicas"):
        deployed(tmp_path, "tiny", origin, Options(rounds=1), {"too many at once": 10_000})


@pytest.mark.serve
def test_the_download_of_an_engine_is_noted_with_its_seconds(tmp_path: Path) -> None:
    program = (
        "from tests.bench import weights_clock\n"
        "from vllm.model_executor.model_loader import default_loader\n"
        "print(default_loader.download_weights_from_hf('org/llama', None, ['*.safetensors']))"
    )
    with HubStub() as hub:
        hub.add_commit("org/llama", {"config.json": CONFIG, "model.safetensors": b"weights"})
        environment = clean_environment(HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "hf"), HF_HUB_DISABLE_XET="1")
        environment |= {FOLDER: str(tmp_path), "HOME": str(tmp_path)}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.splitlines()[-1]) / "model.safetensors").read_bytes() == b"weights"
    (wait,) = noted(tmp_path)
    assert wait.seconds > 0


@pytest.mark.serve
@pytest.mark.timeout(900)
def test_both_ways_are_measured_and_only_ours_fetches_nothing_at_a_second_start(tmp_path: Path) -> None:
    from tests.demo.llama import make_llama

    make_llama(model_folder(tmp_path))
    size = sum(path.stat().st_size for path in model_folder(tmp_path).iterdir())
    with s3_origin(tmp_path) as origin:
        found = deployed(tmp_path, "tiny", origin, Options(rounds=1), {"first start": 1, "two at once": 2})
    rays, again, ours, hit = found.rows.values()
    assert list(found.rows) == [
        f"{way}, {start}" for way in ("Ray's own", "cached") for start in ("first start", "two at once")
    ]
    assert all(0 < row["waited_s"] <= row["ready_s"] <= row["answered_s"] for row in found.rows.values())
    assert min(row["origin_bytes"] for row in (rays, again, ours)) >= size
    assert hit["origin_bytes"] == 0
    assert f"{rays['origin_bytes']:,.0f}" in table(found)
    assert [path.name for path in tmp_path.iterdir()] == ["origin"], "what was fetched is removed"
