"""A model whose upload is not finished: refused for an LLM engine, before its shards are fetched."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cached import ModelIncomplete
from tests.daemon_process import DaemonProcess

Model = Callable[..., Path]
SECOND = "model-00002-of-00002.safetensors"


@pytest.fixture
def local(daemon: DaemonProcess, tmp_path: Path) -> DaemonProcess:
    (tmp_path / "models").mkdir()
    return daemon.start(protocols=["file"], file_roots=[str(tmp_path / "models")], max_age="1h")


def index(*shards: str) -> bytes:
    return json.dumps({"metadata": {}, "weight_map": {f"layer.{n}": name for n, name in enumerate(shards)}}).encode()


def half(make_model: Model, **more: int | bytes) -> Path:
    first = "model-00001-of-00002.safetensors"
    files = {"config.json": b"{}", first: 2 << 20, "model.safetensors.index.json": index(first, SECOND)}
    return make_model(files={**files, **more})


def test_an_index_that_names_an_absent_shard_is_refused_before_any_shard_is_fetched(
    local: DaemonProcess, make_model: Model
) -> None:
    model = half(make_model)
    with local.client() as client:
        with pytest.raises(ModelIncomplete, match=f"index.json names {SECOND}, .*finish the upload") as raised:
            client.pull(f"file://{model}", require="llm")
        assert str(model) in raised.value.message
        assert local.status()["fetched_bytes"] < 1 << 20
        assert client.call("GET", "/v1/snapshots")["snapshots"] == []


def test_once_the_upload_is_finished_the_next_try_succeeds(local: DaemonProcess, make_model: Model) -> None:
    model = half(make_model)
    with local.client() as client:
        with pytest.raises(ModelIncomplete):
            client.pull(f"file://{model}", require="llm")
        (model / SECOND).write_bytes(os.urandom(1000))
        assert SECOND in os.listdir(client.pull(f"file://{model}", require="llm").path)


def test_half_a_model_that_is_held_is_no_hit_for_an_engine_and_the_source_is_asked_for_the_rest(
    local: DaemonProcess, make_model: Model
) -> None:
    model = half(make_model)
    with local.client() as client:
        client.pull(f"file://{model}")
        for offline in (True, False):
            with pytest.raises(ModelIncomplete, match=SECOND):
                client.pull(f"file://{model}", require="llm", offline=offline)
        (model / SECOND).write_bytes(os.urandom(1000))
        assert not client.pull(f"file://{model}", require="llm").hit
        assert client.pull(f"file://{model}", require="llm").hit


def test_shards_that_the_patterns_leave_out_are_not_missed(local: DaemonProcess, make_model: Model) -> None:
    model = half(make_model, **{"w.gguf": 10})
    with local.client() as client:
        assert client.pull(f"file://{model}", exclude=["*.safetensors"], require="llm")


def test_numbered_shards_without_an_index_must_all_be_there(local: DaemonProcess, make_model: Model) -> None:
    files: dict[str, int | bytes] = {"config.json": b"{}", "model-00001-of-00002.safetensors": 10}
    model = make_model(files=files)
    with local.client() as client:
        with pytest.raises(ModelIncomplete, match=SECOND):
            client.pull(f"file://{model}", require="llm")
        (model / SECOND).write_bytes(b"x")
        assert client.pull(f"file://{model}", require="llm", max_age=0)


def test_the_index_of_weights_that_the_engine_does_not_take_may_be_half(
    local: DaemonProcess, make_model: Model
) -> None:
    files: dict[str, int | bytes] = {"config.json": b"{}", "model.safetensors": 10}
    model = make_model(files={**files, "pytorch_model.bin.index.json": index("pytorch_model-00001-of-00002.bin")})
    with local.client() as client:
        assert client.pull(f"file://{model}", require="llm")


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"{}", b'{"weight_map": 3}', b"[" * 100_000, b'{"weight_map": {"a": []}}']
)
def test_what_is_no_index_is_refused_in_one_sentence(local: DaemonProcess, make_model: Model, content: bytes) -> None:
    model = make_model(files={"config.json": b"{}", "model.safetensors.index.json": content})
    with local.client() as client, pytest.raises(ModelIncomplete, match=r"index.json is no index of shards"):
        client.pull(f"file://{model}", require="llm")


def test_a_configuration_in_gguf_may_lie_in_a_folder(local: DaemonProcess, make_model: Model) -> None:
    model = make_model(files={"Q8_0/model.gguf": 10})
    with local.client() as client:
        for _ in ("miss", "hit"):
            assert client.pull(f"file://{model}", require="llm")
