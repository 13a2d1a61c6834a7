"""Adapters end to end: real Ray Serve, a real vLLM and a real daemon, and Ray's own loader in this process."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from tests.daemon_process import DaemonProcess
from tests.serve.adapters import RANK, make_adapter
from tests.servers.proxy import CountingProxy
from tests.servers.rclone import RcloneS3
from tests.waiting import until

if TYPE_CHECKING:
    from tests.demo.local_ray import LocalRay

pytestmark = [pytest.mark.serve, pytest.mark.timeout(600)]

CONTENT = b"x" * 300_000  # Beside the weights, so that fetching an adapter cannot be taken for asking about it.


@pytest.fixture
def s3(llama: dict[str, bytes]) -> Iterator[RcloneS3]:
    with RcloneS3() as server:
        for name, data in llama.items():
            server.put("models", f"llama/{name}", data)
        for number in (1, 2, 3):
            put_adapter(server, f"a{number}", make_adapter(number))
        put_adapter(server, "big", make_adapter(4, rank=4 * RANK))
        yield server


def put_adapter(server: RcloneS3, name: str, files: dict[str, bytes]) -> None:
    for file, data in {**files, "notes.txt": name.encode() + CONTENT}.items():
        server.put("models", f"loras/{name}/{file}", data)


def arguments(make: Callable[..., dict[str, Any]], daemon: DaemonProcess, **callback: Any) -> dict[str, Any]:
    """Ray's own, with our callback and nothing else of ours."""
    kwargs = {"socket": str(daemon.socket), "fallback": "error", **callback}
    config = {
        "lora_config": {"dynamic_lora_loading_path": "s3://models/loras", "max_num_adapters_per_replica": 1},
        "callback_config": {"callback_class": "serve_integration.CachedModelCallback", "callback_kwargs": kwargs},
    }
    made = make("chat", "s3://models/llama", **config)
    made["llm_configs"][0]["engine_kwargs"].update(
        enable_lora=True, max_loras=2, max_lora_rank=2 * RANK, max_model_len=512
    )
    return made


def ask(local_ray: LocalRay, adapter: str, **more: Any) -> Any:
    """The response of a chat completion with this adapter; None is the model alone."""
    model = f"chat:{adapter}" if adapter else "chat"
    messages = [{"role": "user", "content": "fetch what is far away, once " * 20}]  # More than a block of vLLM's cache.
    body = {"model": model, "messages": messages, "max_tokens": 8, "temperature": 0, **more}
    request = urllib.request.Request(
        f"{local_ray.url}/chat/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    return urllib.request.urlopen(request, timeout=120)


def say(local_ray: LocalRay, adapter: str) -> str:
    with ask(local_ray, adapter) as response:
        return str(json.load(response)["choices"][0]["message"]["content"])


def refused(local_ray: LocalRay, adapter: str) -> tuple[int, str]:
    with pytest.raises(urllib.error.HTTPError) as raised:
        ask(local_ray, adapter)
    return raised.value.code, raised.value.read().decode()


def held(daemon: DaemonProcess) -> set[str]:
    """The last parts of the sources of what is held."""
    with daemon.client() as client:
        found = client.call("GET", "/v1/snapshots")["snapshots"]
    return {item["source"].rpartition("/")[2] for item in found if item["leased"]}


def start_on(daemon: DaemonProcess, s3: RcloneS3, endpoint: str, **settings: Any) -> None:
    daemon.environment.update(s3.credentials)
    daemon.start(s3_endpoint=endpoint, **settings)


def test_adapters_are_fetched_once_held_while_they_are_loaded_and_swapped_from_disk(
    local_ray: LocalRay, daemon: DaemonProcess, s3: RcloneS3
) -> None:
    from ray.serve.llm import build_openai_app

    from tests.demo.local_ray import serving_args

    with CountingProxy(s3.endpoint) as proxy:
        start_on(daemon, s3, proxy.endpoint, max_age="1h")
        local_ray.deploy(build_openai_app(arguments(serving_args, daemon)), "chat")
        said = {"": local_ray.first_chat("chat", "chat") and say(local_ray, "")}
        for name in ("a1", "a2"):
            proxy.reset()
            said[name] = say(local_ray, name)
            assert len(CONTENT) < proxy.bytes_down < 2 * len(CONTENT)
            until(lambda name=name: held(daemon) == {"llama", name})  # type: ignore[misc]
        assert len(set(said.values())) == 3

        proxy.reset()
        for name in ("a1", "a1", "a2", "", "a1"):
            assert say(local_ray, name) == said[name]
        assert (proxy.bytes_down, proxy.connections) == (0, 0)

        what_is_wrong_is_said_to_the_client(local_ray)
        an_adapter_is_held_while_a_request_uses_it(local_ray, daemon)
        new_content_is_served_at_the_next_load(local_ray, daemon, s3)
        assert say(local_ray, "") == said[""]
        local_ray.delete("chat")
        assert held(daemon) == set()


def what_is_wrong_is_said_to_the_client(local_ray: LocalRay) -> None:
    status, sentence = refused(local_ray, "nothing")
    assert status == 404
    assert "Cannot load the adapter chat:nothing from s3://models/loras/nothing" in sentence
    status, sentence = refused(local_ray, "../llama")
    assert (status, "cannot be the name of an adapter" in sentence) == (400, True)
    status, sentence = refused(local_ray, "big")
    assert status == 400
    assert "The engine cannot load the adapter chat:big" in sentence and "max_lora_rank" in sentence


def an_adapter_is_held_while_a_request_uses_it(local_ray: LocalRay, daemon: DaemonProcess) -> None:
    """Serve evicts it in the middle of a stream, for another one."""
    while True:
        streaming = threading.Event()
        ended = threading.Event()

        def stream(streaming: threading.Event = streaming, ended: threading.Event = ended) -> None:
            with ask(local_ray, "a1", stream=True, max_tokens=256, ignore_eos=True) as response:
                response.readline()
                streaming.set()
                while response.readline():
                    pass
            ended.set()

        thread = threading.Thread(target=stream)
        thread.start()
        assert streaming.wait(60)
        say(local_ray, "a2")
        both = held(daemon)
        in_time = not ended.is_set()
        thread.join()
        assert ended.is_set()
        if in_time:  # Else the stream was quicker, and this run says nothing.
            break
    assert both == {"llama", "a1", "a2"}
    until(lambda: held(daemon) == {"llama", "a2"})


def new_content_is_served_at_the_next_load(local_ray: LocalRay, daemon: DaemonProcess, s3: RcloneS3) -> None:
    other = say(local_ray, "a3")
    put_adapter(s3, "a1", make_adapter(3))
    daemon.stop()
    start_on(daemon, s3, s3.endpoint, max_age=0)
    assert say(local_ray, "a1") == other
    until(lambda: held(daemon) == {"llama", "a1"})


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ray's loader of adapters with our replacement, for the length of a test."""
    from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
    from ray.llm._internal.serve.utils.lora_serve_utils import LoraModelLoader

    from serve_integration.callback import _callback_of
    from serve_integration.lora.ray_patch import serve_adapters_from_cache

    monkeypatch.setattr(LoraModelLoader, "load_model_from_config", LoraModelLoader.load_model_from_config)
    monkeypatch.setattr(VLLMEngine, "resolve_lora", VLLMEngine.resolve_lora)
    serve_adapters_from_cache(_callback_of)
    return LoraModelLoader


def config(*, ours: bool = True, lora: dict[str, Any] | None = None, **settings: Any) -> Any:
    """As a replica has it: with the callback that it runs already made."""
    from ray.llm._internal.common.callbacks.base import CallbackBase
    from ray.serve.llm import LLMConfig

    from serve_integration import CachedModelCallback, cached_llm_config

    path = {"dynamic_lora_loading_path": "s3://models/loras"}
    made = LLMConfig(
        model_loading_config={"model_id": "chat", "model_source": "s3://models/llama"},
        placement_group_config={"bundles": [{"CPU": 1}]},
        lora_config=path if lora is None else lora,
    )
    made = cached_llm_config(made, **settings) if ours else made
    kind = CachedModelCallback if ours else CallbackBase
    made._callback_instance = kind(made, **made.callback_config.callback_kwargs)
    return made


@pytest.fixture
def rays_own_access(s3: RcloneS3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**s3.credentials, "AWS_ENDPOINT_URL": s3.endpoint, "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)


async def test_without_a_daemon_ray_fetches_the_adapter_itself(
    loading: Any, rays_own_access: None, tmp_path: Path
) -> None:
    loader = loading(lora_root=str(tmp_path))
    found = await loader.load_model_from_config("chat:a1", config(socket=tmp_path / "nobody"))
    assert Path(found.local_path).parent == tmp_path
    assert Path(found.local_path, "adapter_config.json").exists()


async def test_a_config_without_our_callback_is_left_to_ray(
    loading: Any, rays_own_access: None, tmp_path: Path
) -> None:
    found = await loading(lora_root=str(tmp_path)).load_model_from_config("chat:a1", config(ours=False))
    assert Path(found.local_path).parent == tmp_path


@pytest.mark.parametrize("settings", [{"fallback": "error"}, {"fallback": "remote", "lora_path": "hf://org"}])
async def test_without_a_daemon_and_with_no_other_way_the_client_is_told(
    loading: Any, tmp_path: Path, settings: dict[str, str]
) -> None:
    from fastapi import HTTPException

    with pytest.raises(HTTPException, match=r"There is no cached daemon at \S+; start it") as raised:
        await loading().load_model_from_config("chat:a1", config(socket=tmp_path / "nobody", **settings))
    assert raised.value.status_code == 503


async def test_adapters_can_come_from_where_rays_setting_does_not_reach(
    loading: Any, daemon: DaemonProcess, make_model: Callable[..., Path]
) -> None:
    folder = make_model("a1", {**make_adapter(1)}).parent
    daemon.start(protocols=["file"], file_roots=[str(folder)])
    chosen = config(lora={}, socket=daemon.socket, lora_path=f"file://{folder}")
    found = await loading().load_model_from_config("chat:a1", chosen)
    assert Path(found.local_path).parent == daemon.root / "snapshots"


async def test_the_bound_on_an_adapter_is_ours_else_rays_own(
    loading: Any, daemon: DaemonProcess, s3: RcloneS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve_integration.lora import ray_patch

    seen: list[float | None] = []

    async def load(model_id: str, place: str, settings: Any, timeout: float | None, take: Any) -> None:
        seen.append(timeout)

    monkeypatch.setattr(ray_patch, "load_adapter", load)
    lora = {"dynamic_lora_loading_path": "s3://models/loras", "download_timeout_s": 7}
    for settings in ({}, {"timeout": 3}):
        await loading().load_model_from_config("chat:a1", config(lora=lora, **settings))
    assert seen == [7, 3]


async def test_every_node_of_a_replica_holds_an_adapter_until_it_is_evicted(
    local_ray: LocalRay,
    loading: Any,
    daemon: DaemonProcess,
    make_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other nodes are two actors on this one."""
    import ray

    folder = make_model("a1", {**make_adapter(1)}).parent
    daemon.start(protocols=["file"], file_roots=[str(folder)])
    chosen = config(lora={}, socket=daemon.socket, lora_path=f"file://{folder}")
    here = ray.get_runtime_context().get_node_id()
    monkeypatch.setattr(chosen._callback_instance, "_other_nodes", lambda: [here, here])
    adapter = await loading().load_model_from_config("chat:a1", chosen)

    def holders() -> set[int]:
        with daemon.client() as client:
            return {lease["pid"] for lease in client.call("GET", "/v1/leases")["leases"] if lease["held"]}

    assert len(holders()) == 3
    adapter.__del__()
    until(lambda: not holders())


def test_another_shape_of_ray_is_refused_in_one_sentence_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.llm._internal.serve.utils.lora_serve_utils import LoraModelLoader

    from cached import CachedError
    from serve_integration.lora.ray_patch import serve_adapters_from_cache

    async def load_model_from_config(self: Any, lora_model_id: str) -> None: ...

    monkeypatch.setattr(LoraModelLoader, "load_model_from_config", load_model_from_config)
    with pytest.raises(CachedError, match=r"^Ray 2\.\S+ loads LoRA adapters in a way ") as raised:
        serve_adapters_from_cache(lambda _: None)
    assert "\n" not in str(raised.value)
    assert LoraModelLoader.load_model_from_config is load_model_from_config


async def test_adapters_then_stay_with_ray_unless_nothing_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
    from ray.llm._internal.serve.utils.lora_serve_utils import LoraModelLoader

    from cached import CachedError

    async def resolve_lora(self: Any, adapter: Any, request: Any) -> None: ...

    before = LoraModelLoader.load_model_from_config
    monkeypatch.setattr(LoraModelLoader, "load_model_from_config", before)
    monkeypatch.setattr(VLLMEngine, "resolve_lora", resolve_lora)
    for fallback in ("remote", "error"):
        chosen = config(fallback=fallback)
        chosen.model_loading_config.model_source = str(tmp_path)
        callback = chosen._callback_instance
        if fallback == "error":
            with pytest.raises(CachedError, match="resolve_lora"):
                await callback.on_before_node_init()
        else:
            await callback.on_before_node_init()
        assert LoraModelLoader.load_model_from_config is before
        assert VLLMEngine.resolve_lora is resolve_lora
