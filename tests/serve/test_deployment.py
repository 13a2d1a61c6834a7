"""Deployments that are no LLMConfig: the model is there in one call, and stays for the life of the replica."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from serve_integration import deployment, hold_for_replica
from tests.daemon_process import DaemonProcess
from tests.serve.test_callback import lines
from tests.servers.hub import HubStub

if TYPE_CHECKING:
    from tests.demo.local_ray import LocalRay

__all__ = ["lines"]
pytestmark = [pytest.mark.serve, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def held() -> Iterator[list[Any]]:
    yield deployment._leases
    while deployment._leases:
        deployment._leases.pop().release()


@pytest.fixture
def model(make_model: Callable[..., Path], daemon: DaemonProcess) -> str:
    folder = make_model(files={"config.json": b"{}", "model.gguf": 10, "unet/weights.safetensors": 10})
    daemon.start(protocols=["file", "hf"], file_roots=[str(folder.parent)])
    return f"file://{folder}"


def test_one_call_gives_the_directory_holds_it_and_says_so_in_one_line(
    daemon: DaemonProcess, model: str, held: list[Any], lines: list[str]
) -> None:
    path = hold_for_replica(model, socket=daemon.socket, exclude=["*.gguf"])
    assert sorted(str(file.relative_to(path)) for file in Path(path).rglob("*.*")) == [
        "config.json",
        "unet/weights.safetensors",
    ]
    with daemon.client() as client:
        client.call("POST", "/v1/gc", {"free": 1 << 40})
        assert [item["leased"] for item in client.call("GET", "/v1/snapshots")["snapshots"]] == [True]
    (line,) = lines
    assert f"model={model} path={path} digest={held[0].digest}" in line


def test_a_gguf_name_gives_its_file(daemon: DaemonProcess, model: str) -> None:
    path = hold_for_replica(f"{model}/model.gguf", socket=daemon.socket, require="llm")
    assert Path(path).is_file()


@pytest.mark.parametrize("part", ["-not", "/not.gguf"])
def test_what_is_wrong_is_one_sentence_that_names_the_model_and_nothing_is_held(
    daemon: DaemonProcess, model: str, held: list[Any], part: str
) -> None:
    from cached import ModelNotFound

    with pytest.raises(ModelNotFound, match=r"\ACannot load file:///\S+ through the model cache: [^\n]+\Z"):
        hold_for_replica(f"{model}{part}", socket=daemon.socket)
    assert held == []
    with daemon.client() as client:
        assert not any(item["leased"] for item in client.call("GET", "/v1/snapshots")["snapshots"])


def test_without_a_daemon_the_library_gets_the_name_that_it_knows_with_a_warning(
    tmp_path: Path, lines: list[str]
) -> None:
    nobody = tmp_path / "nobody"
    assert hold_for_replica("hf://org/name", socket=nobody) == "org/name"
    assert hold_for_replica("s3://bucket/prefix", socket=nobody) == "s3://bucket/prefix"
    assert [line.split()[0] for line in lines] == ["WARNING", "WARNING"]
    assert "no cached daemon" in lines[0]


@pytest.mark.parametrize(
    ("uri", "options", "said"),
    [
        ("org/name", {"fallback": "error"}, "start it.*Or allow fallback='remote'"),
        ("org/name", {"revision": "v1"}, "no fallback"),
        ("hf://org/name@v1", {}, "no fallback"),
    ],
)
def test_where_the_name_alone_will_not_do_the_replica_fails(
    tmp_path: Path, uri: str, options: dict[str, Any], said: str
) -> None:
    from cached import DaemonUnavailable

    with pytest.raises(DaemonUnavailable, match=said):
        hold_for_replica(uri, socket=tmp_path / "nobody", **options)


def test_a_name_that_means_a_model_of_modelscope_is_given_back_unless_more_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cached import DaemonUnavailable, InvalidRequest

    monkeypatch.setenv("VLLM_USE_MODELSCOPE", "True")
    nobody = tmp_path / "nobody"
    assert hold_for_replica("org/name", socket=nobody, fallback="error") == "org/name"
    with pytest.raises(InvalidRequest, match=r"'v1'.*hf://org/name"):
        hold_for_replica("org/name", socket=nobody, revision="v1")
    with pytest.raises(DaemonUnavailable, match="no fallback"):
        hold_for_replica("hf://org/name", socket=nobody)


def test_a_local_path_is_given_back_and_a_wrong_option_is_named(tmp_path: Path) -> None:
    assert hold_for_replica(str(tmp_path), socket=tmp_path / "nobody", fallback="error") == str(tmp_path)
    with pytest.raises(ValueError, match="'fallbak'"):
        hold_for_replica("org/name", fallbak="error")


def test_deployments_of_vllm_and_of_transformers_load_from_the_cache_and_hold_the_model(
    local_ray: LocalRay, daemon: DaemonProcess, llama: dict[str, bytes]
) -> None:
    from ray import serve

    @serve.deployment(ray_actor_options={"runtime_env": {"env_vars": {"CACHED_SOCKET": str(daemon.socket)}}})
    class Engine:
        def __init__(self) -> None:
            path = hold_for_replica("org/llama", fallback="error", require="llm")
            from vllm.engine.arg_utils import AsyncEngineArgs  # After it: importing vLLM ends Serve's log file.
            from vllm.v1.engine.async_llm import AsyncLLM

            args = AsyncEngineArgs(model=path, max_model_len=128, enforce_eager=True)
            self.engine = AsyncLLM.from_engine_args(args)

        async def __call__(self, prompt: str) -> int:
            from vllm import SamplingParams

            sampling = SamplingParams(max_tokens=3, ignore_eos=True)
            async for answer in self.engine.generate(prompt, sampling, request_id="1"):
                last = answer
            return len(last.outputs[0].token_ids)

        def __del__(self) -> None:
            self.engine.shutdown()

    @serve.deployment(ray_actor_options={"runtime_env": {"env_vars": {"CACHED_SOCKET": str(daemon.socket)}}})
    class Transformer:
        def __init__(self) -> None:
            from transformers import AutoModelForCausalLM, AutoTokenizer

            path = hold_for_replica("org/llama", fallback="error")
            self.tokenizer = AutoTokenizer.from_pretrained(path)
            self.model = AutoModelForCausalLM.from_pretrained(path)

        def __call__(self, prompt: str) -> int:
            tokens = self.tokenizer(prompt, return_tensors="pt")
            longer = self.model.generate(tokens.input_ids, max_new_tokens=3, min_new_tokens=3)
            return int(longer.shape[1] - tokens.input_ids.shape[1])

    with HubStub() as hub:
        hub.add_commit("org/llama", llama)
        daemon.start(hub_endpoint=hub.endpoint, max_age="1h")
        for name, made in (("engine", Engine), ("transformer", Transformer)):
            local_ray.deploy(made.bind(), name)
        for name in ("engine", "transformer"):
            local_ray.wait(name)
            assert serve.get_app_handle(name).remote("hello").result(timeout_s=120) == 3
        loaded = [each for each in local_ray.loaded() if Path(each.path).parent == daemon.root / "snapshots"]
        assert [each.model for each in loaded] == ["hf://org/llama", "hf://org/llama"]
        with daemon.client() as client:
            holders = [lease["pid"] for lease in client.call("GET", "/v1/leases")["leases"] if lease["held"]]
        assert len(holders) >= 2
        for name in ("engine", "transformer"):
            local_ray.delete(name)
        with daemon.client() as client:
            assert [item["leased"] for item in client.call("GET", "/v1/snapshots")["snapshots"]] == [False]
