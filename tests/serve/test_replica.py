"""End to end: real replicas of Ray Serve LLM with a real vLLM, a real daemon and real servers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.daemon_process import DaemonProcess
from tests.servers.hub import HubStub
from tests.servers.proxy import CountingProxy
from tests.servers.rclone import RcloneS3
from tests.waiting import until

if TYPE_CHECKING:
    from tests.demo.local_ray import LocalRay

pytestmark = [pytest.mark.serve, pytest.mark.timeout(600)]

SERVE = Path(sys.executable).with_name("serve")


@pytest.fixture
def bucket(llama: dict[str, bytes]) -> Iterator[RcloneS3]:
    with RcloneS3() as s3:
        for name, data in llama.items():
            s3.put("models", f"llama/{name}", data)
        yield s3


@pytest.fixture
def args() -> Callable[..., dict[str, Any]]:
    from tests.demo.local_ray import serving_args

    return serving_args


def start_on(daemon: DaemonProcess, s3: RcloneS3, endpoint: str, **settings: Any) -> None:
    daemon.environment.update(s3.credentials)
    daemon.start(s3_endpoint=endpoint, max_age="1h", **settings)


def snapshots(daemon: DaemonProcess) -> list[dict[str, Any]]:
    with daemon.client() as client:
        found: list[dict[str, Any]] = client.call("GET", "/v1/snapshots")["snapshots"]
        return found


def collect_everything(daemon: DaemonProcess) -> None:
    assert daemon.cli("gc", "--free", "1TiB").returncode in (0, 5)  # 5: not that much could be freed.


def test_yaml_with_one_changed_import_path_serves_from_the_cache_and_holds_the_model(
    local_ray: LocalRay, daemon: DaemonProcess, bucket: RcloneS3, args: Callable[..., Any], tmp_path: Path
) -> None:
    with CountingProxy(bucket.endpoint) as proxy:
        start_on(daemon, bucket, proxy.endpoint)
        arguments = {**args("yaml", "s3://models/llama"), "cached": {"socket": str(daemon.socket), "fallback": "error"}}
        deploy_yaml(local_ray, tmp_path, arguments)
        assert local_ray.first_chat("yaml", "yaml")
        loaded = local_ray.loaded()[-1]
        assert loaded.model == "s3://models/llama"
        assert Path(loaded.path).parent == daemon.root / "snapshots"
        assert proxy.bytes_down >= loaded.size

        collect_everything(daemon)
        daemon.stop()
        daemon.start()
        collect_everything(daemon)
        assert [(item["digest"], item["leased"]) for item in snapshots(daemon)] == [(loaded.digest, True)]
        assert local_ray.chat("yaml", "yaml")

        local_ray.delete("yaml")
        until(lambda: [item["leased"] for item in snapshots(daemon)] == [False], 60)  # The engine's process ends last.
        collect_everything(daemon)
        assert snapshots(daemon) == []


def deploy_yaml(local_ray: LocalRay, folder: Path, arguments: dict[str, Any]) -> None:
    application = {
        "name": "yaml",
        "route_prefix": "/yaml",
        "import_path": "serve_integration:build_openai_app",
        "args": arguments,
    }
    path = folder / "config.yaml"
    http = {"host": "127.0.0.1", "port": int(local_ray.url.rpartition(":")[2])}
    path.write_text(yaml.safe_dump({"http_options": http, "applications": [application]}))
    command = [str(SERVE), "deploy", "--address", local_ray.dashboard, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_rays_own_builder_with_the_callback_loads_a_hub_model_from_the_cache(
    local_ray: LocalRay, daemon: DaemonProcess, llama: dict[str, bytes], args: Callable[..., Any]
) -> None:
    from ray.serve.llm import LLMConfig, build_openai_app

    from serve_integration import CachedModelCallback

    with HubStub() as hub:
        hub.add_commit("org/llama", llama)
        daemon.start(hub_endpoint=hub.endpoint)
        kwargs = {"socket": str(daemon.socket), "fallback": "error"}
        callback = {"callback_class": CachedModelCallback, "callback_kwargs": kwargs}
        arguments = args("org/llama", None, callback_config=callback)
        arguments["llm_configs"] = [LLMConfig(**config) for config in arguments["llm_configs"]]
        local_ray.deploy(build_openai_app(arguments), "callback")
        assert local_ray.first_chat("callback", "org/llama")
        local_ray.delete("callback")
        loaded = local_ray.loaded()[-1]
        assert loaded.model == "hf://org/llama"
        assert Path(loaded.path).parent == daemon.root / "snapshots"


def test_without_a_daemon_fallback_remote_lets_ray_load_the_model_itself(
    local_ray: LocalRay, llama: dict[str, bytes], args: Callable[..., Any], tmp_path: Path
) -> None:
    from serve_integration import build_openai_app

    with HubStub() as hub:
        hub.add_commit("org/llama", llama)
        variables = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        variables["HF_HOME"] = str(tmp_path / "home")
        before = len(local_ray.loaded())
        arguments = args("remote", "hf://org/llama@main", runtime_env={"env_vars": variables})
        arguments["cached"] = {"socket": str(tmp_path / "nobody")}
        local_ray.deploy(build_openai_app(arguments), "remote")
        assert local_ray.first_chat("remote", "remote")
        local_ray.delete("remote")
        assert hub.count("/resolve/") > 0
        assert len(local_ray.loaded()) == before


def test_what_is_wrong_shows_in_serves_status_as_one_sentence(
    local_ray: LocalRay, daemon: DaemonProcess, bucket: RcloneS3, args: Callable[..., Any], tmp_path: Path
) -> None:
    from serve_integration import build_openai_app

    bucket.put("models", "weights/model.safetensors", b"weights")
    start_on(daemon, bucket, bucket.endpoint)
    wrong = {
        "incomplete": ("s3://models/weights", str(daemon.socket)),
        "absent": ("s3://models/nothing", str(daemon.socket)),
        "alone": ("s3://models/llama", str(tmp_path / "nobody")),
    }
    expected = {
        "incomplete": ["s3://models/weights", "config.json"],
        "absent": ["s3://models/nothing", "no model files"],
        "alone": ["s3://models/llama", "There is no cached daemon at", "start it", "fallback='remote'"],
    }
    for name, (source, socket) in wrong.items():
        arguments = {**args(name, source), "cached": {"socket": socket, "fallback": "error"}}
        local_ray.deploy(build_openai_app(arguments), name)
    for name in wrong:
        said = local_ray.wait_for_trouble(name, "Cannot load")
        (sentence, *_) = [line for line in said.splitlines() if "Cannot load" in line]
        assert all(part in sentence for part in expected[name]), sentence
        local_ray.delete(name)
    assert snapshots(daemon) == []
