"""What an engine reads beside its model, and models that are a part of a place; with a real daemon and no cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serve_integration.models.model_source import Reference, reference
from serve_integration.replica.auxiliary import companions, keep_kind
from tests.daemon_process import DaemonProcess
from tests.serve.test_callback import callback, held, lines
from tests.servers.hub import HubStub

__all__ = ["held", "lines"]
pytestmark = pytest.mark.serve

MODEL = {"config.json": b"{}", "model.safetensors": b"weights"}
TOKENIZER = {"tokenizer.json": b"{}", "vocab.tiktoken": b"x", "chat_template.jinja": b"x", "w.safetensors": b"other"}


@pytest.fixture
def hub(daemon: DaemonProcess) -> Iterator[HubStub]:
    with HubStub() as stub:
        stub.add_commit("org/name", MODEL)
        stub.add_commit("org/tokens", TOKENIZER)
        daemon.start(hub_endpoint=stub.endpoint, max_age="1h")
        yield stub


def names(engine_kwargs: dict[str, Any], tokenizer_source: str | None = None) -> list[str]:
    return [f"{found.what}={found.reference}" for found in companions(engine_kwargs, tokenizer_source)]


def test_every_setting_that_names_a_repository_is_found_with_its_revision() -> None:
    assert names({"tokenizer": "org/t", "tokenizer_revision": "v1"}) == ["tokenizer=hf://org/t@v1"]
    assert names({"hf_config_path": "s3://bucket/config"}) == ["hf config path=s3://bucket/config"]
    assert names({"speculative_config": {"model": "org/draft", "revision": "v2"}}) == ["draft model=hf://org/draft@v2"]
    assert names({"generation_config": "org/g"}) == ["generation config=hf://org/g"]


def test_rays_tokenizer_source_gives_way_to_the_engines_tokenizer() -> None:
    assert names({}, "org/t") == ["tokenizer=hf://org/t"]
    assert names({"tokenizer": "org/u"}, "org/t") == ["tokenizer=hf://org/u"]


@pytest.mark.parametrize(
    "settings",
    [
        {"tokenizer": "/models/t", "hf_config_path": "./c"},
        {"generation_config": "vllm"},
        {"speculative_config": {"method": "ngram", "model": "ngram", "num_speculative_tokens": 2}},
        {"speculative_config": {"model": "package.module.Proposer"}},
        {"speculative_config": {"method": "mtp", "num_speculative_tokens": 1}},
        {"tokenizer": None, "speculative_config": None},
    ],
)
def test_what_names_no_repository_is_left_alone(settings: dict[str, Any]) -> None:
    assert names(settings) == []


def test_the_kind_that_a_draft_models_name_tells_is_kept_and_the_users_own_word_stays() -> None:
    for name, kind in (("org/EAGLE-LLaMA", "eagle"), ("org/x_eagle3", "eagle3"), ("org/draft", None)):
        settings = {"speculative_config": {"model": name}}
        keep_kind(settings)
        assert settings["speculative_config"].get("method") == kind
    settings = {"speculative_config": {"model": "org/eagle3-x", "method": "draft_model"}}
    keep_kind(settings)
    assert settings["speculative_config"]["method"] == "draft_model"


async def test_a_tokenizer_of_its_own_comes_from_the_cache_whole_but_for_weights_and_is_held(
    daemon: DaemonProcess, hub: HubStub, held: list[Any], lines: list[str]
) -> None:
    subject = callback("org/name", engine={"tokenizer": "org/tokens"}, socket=daemon.socket, exclude=["*.tiktoken"])
    await subject.on_before_node_init()
    engine = subject.llm_config.get_engine_config().get_initialization_kwargs()
    assert sorted(os.listdir(engine["model"])) == sorted(MODEL)
    assert sorted(os.listdir(engine["tokenizer"])) == ["chat_template.jinja", "tokenizer.json", "vocab.tiktoken"]
    assert {lease.path for lease in held} == {engine["model"], engine["tokenizer"]}
    assert [line.rpartition(" ")[2] for line in lines] == ["bytes=9", "use=tokenizer"]


async def test_a_draft_model_comes_from_the_cache_and_the_users_config_keeps_its_name(
    daemon: DaemonProcess, hub: HubStub, held: list[Any]
) -> None:
    hub.add_commit("org/eagle3-draft", {**MODEL, "model.safetensors": b"draft"})
    mine = {"speculative_config": {"model": "org/eagle3-draft", "num_speculative_tokens": 2}}
    subject = callback("org/name", engine=mine, socket=daemon.socket)
    await subject.on_before_node_init()
    draft = subject.llm_config.get_engine_config().engine_kwargs["speculative_config"]
    assert (Path(draft["model"]) / "model.safetensors").read_bytes() == b"draft"
    assert (draft["method"], draft["num_speculative_tokens"]) == ("eagle3", 2)
    assert mine["speculative_config"]["model"] == "org/eagle3-draft"
    assert len(held) == 2


async def test_the_model_named_again_is_not_acquired_again(
    daemon: DaemonProcess, hub: HubStub, held: list[Any]
) -> None:
    subject = callback("org/name", engine={"tokenizer": "org/name"}, socket=daemon.socket)
    await subject.on_before_node_init()
    engine = subject.llm_config.get_engine_config().get_initialization_kwargs()
    assert engine["tokenizer"] == engine["model"] == held[0].path
    assert len(held) == 1


async def test_a_local_model_may_have_a_tokenizer_from_the_cache(
    daemon: DaemonProcess, hub: HubStub, held: list[Any], tmp_path: Path
) -> None:
    subject = callback(str(tmp_path), engine={"tokenizer": "org/tokens"}, socket=daemon.socket)
    await subject.on_before_node_init()
    engine = subject.llm_config.get_engine_config().get_initialization_kwargs()
    assert (engine["model"], engine["tokenizer"]) == (str(tmp_path), held[0].path)


async def test_a_companion_that_is_wrong_fails_the_replica_with_a_sentence_that_names_it(
    daemon: DaemonProcess, hub: HubStub, held: list[Any]
) -> None:
    from cached import SourceDenied

    subject = callback("org/name", engine={"tokenizer": "org/nothing"}, socket=daemon.socket)
    with pytest.raises(SourceDenied, match="Cannot load the tokenizer hf://org/nothing"):
        await subject.on_before_node_init()


async def test_without_a_daemon_the_engine_loads_companions_by_the_names_that_it_knows(
    tmp_path: Path, held: list[Any], lines: list[str]
) -> None:
    settings = {"tokenizer": "hf://org/t", "speculative_config": {"model": "org/eagle3"}}
    subject = callback("org/name:Q4_K_M", engine=settings, socket=tmp_path / "nobody")
    await subject.on_before_node_init()
    engine = subject.llm_config.get_engine_config().get_initialization_kwargs()
    assert engine["model"] == "org/name:Q4_K_M"
    assert (engine["tokenizer"], engine["speculative_config"]["model"]) == ("org/t", "org/eagle3")
    assert len(lines) == 3
    assert all("WARNING" in line for line in lines)


async def test_where_vllm_reads_names_from_modelscope_nothing_is_taken_from_the_hub_for_them(
    tmp_path: Path, held: list[Any], lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cached import DaemonUnavailable

    settings = {"tokenizer": "org/t", "speculative_config": {"model": "org/draft"}, "tokenizer_revision": "v2"}
    subject = callback("org/name", engine=settings, socket=tmp_path / "nobody", fallback="error")
    engine = subject.llm_config.get_engine_config()  # Imports vLLM, which would ask for ModelScope's package.
    monkeypatch.setenv("VLLM_USE_MODELSCOPE", "true")
    await subject.on_before_node_init()
    kwargs = engine.get_initialization_kwargs()
    assert kwargs == {**kwargs, **settings, "model": "org/name"}
    (line,) = lines
    assert "left to the engine" in line
    with pytest.raises(DaemonUnavailable, match="no fallback"):  # Without the scheme it would be another model.
        await callback("hf://org/name", socket=tmp_path / "nobody").on_before_node_init()


@pytest.mark.parametrize(
    ("text", "uri", "part"),
    [
        ("org/name:Q4_K_M", "hf://org/name", ":Q4_K_M"),
        ("hf://org/name:UD-Q4_K_XL", "hf://org/name", ":UD-Q4_K_XL"),
        ("org/name/file.gguf", "hf://org/name", "/file.gguf"),
        ("org/name/deep/file.gguf", "hf://org/name", "/deep/file.gguf"),
        ("s3://bucket/prefix/file.gguf", "s3://bucket/prefix", "/file.gguf"),
        ("s3://bucket/models/chat:v2", "s3://bucket/models/chat:v2", ""),
        ("s3://bucket/models/chat:v2/file.gguf", "s3://bucket/models/chat:v2", "/file.gguf"),
        ("https://host:8080/prefix", "https://host:8080/prefix", ""),
    ],
)
def test_a_gguf_name_is_a_part_of_a_place_and_a_colon_in_a_buckets_key_is_none(text: str, uri: str, part: str) -> None:
    assert reference("chat", text) == Reference(uri, part=part)


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("org/quants:Q4_K_M", "m-Q4_K_M.gguf"),
        ("org/quants:Q8_0", "big/m-Q8_0-00001-of-00002.gguf"),
        ("org/quants:F16", "m.F16.gguf"),
        ("org/quants/big/m-Q8_0-00001-of-00002.gguf", "big/m-Q8_0-00001-of-00002.gguf"),
    ],
)
async def test_of_a_gguf_repository_only_what_is_meant_is_fetched_and_its_file_is_the_model(
    daemon: DaemonProcess, hub: HubStub, held: list[Any], source: str, file: str
) -> None:
    quants = ["m-Q4_K_M.gguf", "m.F16.gguf", "big/m-Q8_0-00001-of-00002.gguf", "big/m-Q8_0-00002-of-00002.gguf"]
    beside = ["config.json", "tokenizer.json", "mmproj-F16.gguf"]
    hub.add_commit("org/quants", {name: name.encode() for name in [*quants, *beside]})
    subject = callback(source, socket=daemon.socket)
    await subject.on_before_node_init()
    engine = subject.llm_config.get_engine_config()
    assert engine.hf_model_id == f"{held[0].path}/{file}"
    assert engine.engine_kwargs.get("hf_config_path") == (held[0].path if "/" in file else None)
    there = {str(path.relative_to(held[0].path)) for path in Path(held[0].path).rglob("*") if path.is_file()}
    assert set(beside) | {file} <= there
    assert len([name for name in there if name in quants]) == (2 if "Q8_0" in source else 1)
    await subject.on_after_node_init()
    assert engine.hf_model_id == f"{held[0].path}/{file}"


async def test_a_gguf_draft_model_or_tokenizer_is_its_file(
    daemon: DaemonProcess, hub: HubStub, held: list[Any]
) -> None:
    hub.add_commit("org/draft-GGUF", {"d-Q4_K_M.gguf": b"four", "d-Q8_0.gguf": b"eight", "config.json": b"{}"})
    name = "org/draft-GGUF:Q4_K_M"
    mine = {"speculative_config": {"model": name, "num_speculative_tokens": 2}, "tokenizer": name}
    subject = callback("org/name", engine=mine, socket=daemon.socket)
    await subject.on_before_node_init()
    engine = subject.llm_config.get_engine_config().engine_kwargs
    for file in (engine["speculative_config"]["model"], engine["tokenizer"]):
        assert (Path(file).name, Path(file).read_bytes()) == ("d-Q4_K_M.gguf", b"four")


async def test_a_quantisation_that_is_not_there_is_named(daemon: DaemonProcess, hub: HubStub, held: list[Any]) -> None:
    from cached import ModelNotFound

    said = "Cannot load hf://org/name:Q2_K through the model cache: .*no such GGUF file at hf://org/name:Q2_K"
    with pytest.raises(ModelNotFound, match=said):
        await callback("org/name:Q2_K", socket=daemon.socket).on_before_node_init()


async def test_tensorizer_reads_tensors_from_the_cache_and_says_so_when_there_are_none(
    daemon: DaemonProcess, hub: HubStub, held: list[Any]
) -> None:
    from cached import ModelIncomplete

    tensorizer = {"load_format": "tensorizer", "model_loader_extra_config": {"num_readers": 2, "tensorizer_uri": None}}
    with pytest.raises(ModelIncomplete, match=r"reads model.tensors, and hf://org/name has none"):
        await callback("org/name", engine=tensorizer, socket=daemon.socket).on_before_node_init()
    hub.add_commit("org/name", {"model.tensors": b"tensors"})
    subject = callback("org/name", engine=tensorizer, socket=daemon.socket, max_age=0)
    await subject.on_before_node_init()
    assert "model.tensors" in os.listdir(subject.llm_config.get_engine_config().hf_model_id)


@pytest.mark.parametrize("setting", [{"tensorizer_dir": "/elsewhere"}, {"tensorizer_uri": "s3://bucket/x.tensors"}])
@pytest.mark.parametrize("as_object", [False, True])
async def test_tensorizer_may_read_from_where_its_own_settings_say(
    daemon: DaemonProcess, hub: HubStub, held: list[Any], setting: dict[str, str], as_object: bool
) -> None:
    from vllm.model_executor.model_loader.tensorizer import TensorizerConfig

    extra = TensorizerConfig(**setting) if as_object else setting
    tensorizer = {"load_format": "tensorizer", "model_loader_extra_config": extra}
    subject = callback("org/name", engine=tensorizer, socket=daemon.socket)
    await subject.on_before_node_init()
    assert subject.llm_config.get_engine_config().hf_model_id == held[0].path


async def test_nothing_that_an_engine_may_read_is_left_out(
    daemon: DaemonProcess, hub: HubStub, held: list[Any]
) -> None:
    files = [
        *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "chat_template.jinja"),
        *("modeling_own.py", "configuration_own.py", "audio/config.json", "tokenizer/tokenizer.model", "notes.txt"),
        *("additional_chat_templates/rag.jinja", "adapters/first/adapter_config.json"),
    ]
    hub.add_commit("org/whole", {**MODEL, **{name: name.encode() for name in files}})
    subject = callback("org/whole", engine={"trust_remote_code": True}, socket=daemon.socket)
    await subject.on_before_node_init()
    folder = Path(subject.llm_config.get_engine_config().hf_model_id)
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert there == {*MODEL, *files}


@pytest.mark.parametrize("load_format", ["runai_streamer", "runai_streamer_sharded", "fastsafetensors"])
async def test_a_load_format_gets_the_directory_whatever_ray_would_have_streamed_from(
    daemon: DaemonProcess, hub: HubStub, held: list[Any], load_format: str
) -> None:
    from ray.llm._internal.serve.engines.vllm.vllm_engine import _resolve_hf_model_id_from_mirror

    subject = callback("hf://org/name", engine={"load_format": load_format}, socket=daemon.socket)
    await subject.on_before_node_init()
    await subject.on_after_node_init()
    engine = subject.llm_config.get_engine_config()
    _resolve_hf_model_id_from_mirror(engine)
    assert engine.hf_model_id == held[0].path
    assert engine.engine_kwargs["load_format"] == load_format
