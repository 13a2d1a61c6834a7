"""Ways that users of Ray Serve LLM write a model down, each with a real replica and a real engine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.daemon_process import DaemonProcess
from tests.servers.hub import HubStub

if TYPE_CHECKING:
    from tests.demo.local_ray import LocalRay

pytestmark = [pytest.mark.serve, pytest.mark.timeout(600)]

SERVE = Path(sys.executable).with_name("serve")
OWN_CODE = b"""
from transformers import LlamaConfig

class OwnConfig(LlamaConfig):
    own = "code of the repository"
"""


@pytest.fixture
def args() -> Callable[..., dict[str, Any]]:
    from tests.demo.local_ray import serving_args

    return serving_args


def serve_deploy(local_ray: LocalRay, folder: Path, name: str, import_path: str, arguments: dict[str, Any]) -> None:
    application = {"name": name, "route_prefix": f"/{name}", "import_path": import_path, "args": arguments}
    http = {"host": "127.0.0.1", "port": int(local_ray.url.rpartition(":")[2])}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"http_options": http, "applications": [application]}))
    command = [str(SERVE), "deploy", "--address", local_ray.dashboard, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_rays_import_path_with_the_callback_in_yaml_streams_a_model_with_own_code_and_others_beside_it(
    local_ray: LocalRay, daemon: DaemonProcess, llama: dict[str, bytes], args: Callable[..., Any], tmp_path: Path
) -> None:
    """One replica for many rules: the model has no tokenizer, and its code is a file beside its configuration."""
    tokenizer = {name for name in llama if "token" in name or name.endswith(".jinja")}
    own = json.loads(llama["config.json"]) | {"auto_map": {"AutoConfig": "own.OwnConfig"}}
    model = {name: data for name, data in llama.items() if name not in tokenizer}
    model |= {"config.json": json.dumps(own).encode(), "own.py": OWN_CODE}
    with HubStub() as hub:
        hub.add_commit("org/model", model)
        hub.add_commit("org/tokens", {name: llama[name] for name in tokenizer})
        hub.add_commit("org/draft", llama)
        daemon.start(hub_endpoint=hub.endpoint, max_age="1h")
        kwargs = {"socket": str(daemon.socket), "fallback": "error"}
        callback = {"callback_class": "serve_integration.CachedModelCallback", "callback_kwargs": kwargs}
        runtime_env = {"env_vars": {"HF_HOME": str(tmp_path / "home")}}
        arguments = args("named", "org/model", callback_config=callback, runtime_env=runtime_env)
        (config,) = arguments["llm_configs"]
        config["engine_kwargs"] |= {
            "load_format": "runai_streamer",
            "tokenizer": "org/tokens",
            "trust_remote_code": True,
            "speculative_config": {"method": "draft_model", "model": "org/draft", "num_speculative_tokens": 2},
        }
        serve_deploy(local_ray, tmp_path, "row", "ray.serve.llm:build_openai_app", arguments)
        assert local_ray.first_chat("row", "named")
        loaded = {each.model: each for each in local_ray.loaded()[-3:]}
        assert set(loaded) == {"hf://org/model", "hf://org/tokens", "hf://org/draft"}
        assert list((tmp_path / "home").rglob("own.py"))  # Where transformers puts code that it runs.
        with daemon.client() as client:
            leased = {item["digest"] for item in client.call("GET", "/v1/snapshots")["snapshots"] if item["leased"]}
        assert leased == {each.digest for each in loaded.values()}
        local_ray.delete("row")
