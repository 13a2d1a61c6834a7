"""Gated models in real replicas: the token is the user's own, from wherever Ray lets it be set."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon_process import DaemonProcess, clean_environment
from tests.servers import HubStub

if TYPE_CHECKING:
    from tests.demo.local_ray import LocalRay

pytestmark = [pytest.mark.serve, pytest.mark.timeout(600)]

TOKEN = "hf_of_the_user"


@pytest.fixture
def hub(llama: dict[str, bytes], daemon: DaemonProcess) -> Iterator[HubStub]:
    with HubStub() as running:
        running.add_commit("org/gated", llama)
        running.gate("org/gated", TOKEN)
        daemon.start(hub_endpoint=running.endpoint)
        yield running


def test_a_token_in_runtime_env_opens_a_gated_model_for_that_application_alone(
    local_ray: LocalRay, daemon: DaemonProcess, hub: HubStub
) -> None:
    from serve_integration import build_openai_app
    from tests.demo.local_ray import serving_args

    def application(name: str, token: str) -> Any:
        variables = {"env_vars": {"HF_TOKEN": token}} if token else {}
        args = {**serving_args(name, "org/gated", runtime_env=variables)}
        return build_openai_app({**args, "cached": {"socket": str(daemon.socket), "fallback": "error"}})

    local_ray.deploy(application("granted", TOKEN), "granted")
    assert local_ray.first_chat("granted", "granted")
    for name, token in (("stranger", "hf_of_somebody"), ("nobody", "")):
        local_ray.deploy(application(name, token), name)
    for name in ("stranger", "nobody"):
        said = local_ray.wait_for_trouble(name, "Cannot load")
        (sentence, *_) = [line for line in said.splitlines() if "Cannot load" in line]
        assert "hf://org/gated" in sentence and "or you may not read it" in sentence and "HF_TOKEN" in sentence
        local_ray.delete(name)
    local_ray.delete("granted")


def test_a_token_for_the_whole_cluster_reaches_every_replica(
    daemon: DaemonProcess, hub: HubStub, llama: dict[str, bytes]
) -> None:
    with tempfile.TemporaryDirectory(prefix="cached-ray-", dir="/tmp") as folder:
        script = [sys.executable, "-m", "tests.serve.cluster_token", folder, str(daemon.socket), "org/gated"]
        run: Callable[[str], subprocess.CompletedProcess[str]] = lambda token: subprocess.run(  # noqa: E731
            [*script, token],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=Path(__file__).parents[2],
            env=clean_environment(),
        )
        done = run(TOKEN)
        assert str(daemon.root / "snapshots") in done.stdout, done.stderr[-3000:]
        assert all(name in done.stdout for name in llama)
        assert "or you may not read it" in run("hf_of_somebody").stdout
