"""Adapters: what a request's model id means, and what a real daemon gives for it. Needs no Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed, which comes with Ray")

from cached import DaemonUnavailable, InvalidRequest, ModelIncomplete, ModelNotFound
from serve_integration.lora.adapter import adapter_uri, load_adapter, refusal
from serve_integration.settings import Settings
from tests.daemon_process import DaemonProcess
from tests.serve.adapters import take_here
from tests.servers.hub import HubStub

ADAPTER: dict[str, int | bytes] = {"adapter_config.json": b'{"max_length": 512}', "adapter_model.safetensors": 100}


@pytest.mark.parametrize(
    ("model_id", "place", "uri"),
    [
        ("chat:sql", "s3://bucket/loras", "s3://bucket/loras/sql"),
        ("org/chat:sql", "gs://bucket", "gs://bucket/sql"),
        ("chat:sql", "pyarrow-s3://bucket/loras", "s3://bucket/loras/sql"),
        ("chat:suffix:id", "s3://bucket/loras", "s3://bucket/loras/suffix:id"),
        ("chat:team/sql.v2", "s3://bucket/loras", "s3://bucket/loras/team/sql.v2"),
        ("chat:sql@v2", "hf://org", "hf://org/sql@v2"),
        ("chat:org/sql", "hf://", "hf://org/sql"),
    ],
)
def test_what_follows_the_first_colon_names_a_folder_below_the_path(model_id: str, place: str, uri: str) -> None:
    assert adapter_uri(model_id, place) == uri


@pytest.mark.parametrize(
    "name",
    [
        *("", "..", "../llama", "a/../../llama", "a/..", ".", "./a", "/a", "a//b", "a/"),
        *("a?b", "a#b", "%2e%2e", "a\\b", "a b", "a\n", "*", "a[b]"),
    ],
)
def test_a_name_cannot_lead_out_of_the_path(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"cannot be the name of an adapter.*s3://bucket/loras"):
        adapter_uri(f"chat:{name}", "s3://bucket/loras")


@pytest.fixture
def place(make_model: Callable[..., Path], daemon: DaemonProcess) -> str:
    folder = make_model("sql", ADAPTER).parent
    daemon.start(protocols=["file"], file_roots=[str(folder)], max_age="1h")
    return f"file://{folder}"


def leased(daemon: DaemonProcess) -> list[bool]:
    with daemon.client() as client:
        return [snapshot["leased"] for snapshot in client.call("GET", "/v1/snapshots")["snapshots"]]


async def load(daemon: DaemonProcess, place: str, name: str = "sql", **settings: Any) -> Any:
    return await load_adapter(
        f"chat:{name}", place, Settings.of({"socket": daemon.socket, **settings}), None, take_here
    )


async def test_an_adapter_has_the_fields_that_rays_engine_reads(daemon: DaemonProcess, place: str) -> None:
    adapter = await load(daemon, place)
    assert adapter.model_id == "chat:sql"
    assert Path(adapter.local_path).parent == daemon.root / "snapshots"
    assert adapter.max_total_tokens == 512
    assert (await load(daemon, place)).hit


async def test_an_adapter_comes_whole_whatever_patterns_the_model_has(daemon: DaemonProcess, place: str) -> None:
    adapter = await load(daemon, place, include=["config.json"], exclude=["adapter*"])
    assert sorted(path.name for path in Path(adapter.path).iterdir()) == sorted(ADAPTER)


async def test_an_adapter_can_be_a_repository_of_the_hub_at_a_revision(daemon: DaemonProcess) -> None:
    with HubStub() as hub:
        old = hub.add_commit("org/sql", {"adapter_config.json": b"{}", "adapter_model.safetensors": b"old"})
        hub.add_commit("org/sql", {"adapter_model.safetensors": b"new"})
        daemon.start(hub_endpoint=hub.endpoint)
        adapters = [await load(daemon, "hf://org", name) for name in ("sql", f"sql@{old}")]
        said = [Path(adapter.path, "adapter_model.safetensors").read_bytes() for adapter in adapters]
        assert said == [b"new", b"old"]


@pytest.mark.parametrize("said", [b"{}", b"[]", b"not json", b'{"max_length": "long"}'])
async def test_a_length_that_the_adapter_does_not_say_is_none(
    daemon: DaemonProcess, place: str, make_model: Callable[..., Path], said: bytes
) -> None:
    make_model("other", {**ADAPTER, "adapter_config.json": said})
    assert (await load(daemon, place, "other")).max_total_tokens is None


async def test_without_an_engine_eviction_by_serve_ends_the_lease(daemon: DaemonProcess, place: str) -> None:
    adapter = await load(daemon, place)
    assert leased(daemon) == [True]
    adapter.__del__()
    assert leased(daemon) == [False]


async def test_what_is_not_there_is_not_found_in_one_sentence_that_names_it(daemon: DaemonProcess, place: str) -> None:
    with pytest.raises(ModelNotFound, match=f"Cannot load the adapter chat:nothing from {place}/nothing") as raised:
        await load(daemon, place, "nothing")
    assert raised.value.message.endswith("; check the name, or upload the whole adapter.")
    answer = refusal(raised.value)
    assert (answer.status_code, answer.detail) == (404, raised.value.message)


async def test_a_folder_without_a_configuration_is_no_adapter_and_is_not_held(
    daemon: DaemonProcess, place: str, make_model: Callable[..., Path]
) -> None:
    make_model("half", {"adapter_model.safetensors": 100})
    with pytest.raises(ModelIncomplete, match=r"chat:half .*there is no adapter_config\.json; check the name"):
        await load(daemon, place, "half")
    assert leased(daemon) == [False]


async def test_without_a_daemon_the_sentence_says_what_to_start(daemon: DaemonProcess, place: str) -> None:
    with pytest.raises(DaemonUnavailable, match=r"chat:sql .*no cached daemon at /nowhere; start it") as raised:
        await load(daemon, place, socket="/nowhere")
    assert refusal(raised.value).status_code == 503


async def test_renewing_asks_the_source_whatever_max_age_says(
    daemon: DaemonProcess, place: str, make_model: Callable[..., Path]
) -> None:
    adapter = await load(daemon, place)
    make_model("sql", {**ADAPTER, "adapter_config.json": b'{"max_length": 99}'})
    before, adapter.refused = adapter.digest, True
    await adapter.renew()
    assert adapter.digest != before
    assert adapter.local_path == adapter.path
    assert (adapter.max_total_tokens, adapter.refused) == (99, False)
    assert sorted(leased(daemon)) == [False, True]
