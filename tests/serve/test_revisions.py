"""Revisions that an engine's settings name, of a model and of what is beside it; with a real daemon and no cluster."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serve_integration.models.model_source import reference
from serve_integration.replica.auxiliary import companions
from tests.daemon_process import DaemonProcess
from tests.serve.test_callback import callback, held, lines
from tests.servers.hub import HubStub

__all__ = ["held", "lines"]
pytestmark = pytest.mark.serve

WEIGHTS = {"model.safetensors": b"weights"}
OWN_CODE = json.dumps({"auto_map": {"AutoConfig": "own.OwnConfig"}}).encode()
OTHERS_CODE = json.dumps({"auto_map": {"AutoConfig": "org/other--own.OwnConfig"}}).encode()


@pytest.fixture
def hub(daemon: DaemonProcess) -> Iterator[HubStub]:
    with HubStub() as stub:
        for branch in ("v2", "main"):
            tokenizer = {"tokenizer.json": branch.encode()}
            stub.add_commit("org/name", {**WEIGHTS, **tokenizer, "config.json": OWN_CODE}, branch)
            stub.add_commit("org/tokens", tokenizer, branch)
            stub.add_commit("org/plain", {**WEIGHTS, "config.json": b"{}"}, branch)
            stub.add_commit("org/others", {**WEIGHTS, "config.json": OTHERS_CODE}, branch)
        daemon.start(hub_endpoint=stub.endpoint, max_age="1h")
        yield stub


async def started(source: str, engine: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """What the engine would be started with."""
    subject = callback(source, engine=engine, **settings)
    await subject.on_before_node_init()
    kwargs: dict[str, Any] = subject.llm_config.get_engine_config().get_initialization_kwargs()
    return kwargs


def tokenizer(engine: dict[str, Any]) -> bytes:
    return Path(engine["tokenizer"], "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("engine", "meant"),
    [
        ({"tokenizer": "org/t"}, "hf://org/t"),
        ({"tokenizer": "org/t", "revision": "v1"}, "hf://org/t@v1"),  # vLLM asks every repository for it.
        ({"tokenizer": "org/t", "revision": "v1", "tokenizer_revision": "v3"}, "hf://org/t@v3"),
        ({"tokenizer": "org/t@v3", "revision": "v1"}, "hf://org/t@v3"),
        ({"tokenizer": "org/name"}, "hf://org/name@v2"),
        ({"tokenizer": "s3://bucket/t", "revision": "v1"}, "s3://bucket/t"),
        ({"tokenizer_revision": "v3"}, "hf://org/name@v3"),
        ({"tokenizer_revision": "v2"}, None),
    ],
)
def test_a_tokenizer_is_taken_at_the_revision_that_vllm_takes(engine: dict[str, Any], meant: str | None) -> None:
    found = companions(engine, model=reference("chat", "org/name@v2"))
    assert [str(companion.reference) for companion in found] == [meant] * (meant is not None)
    assert all(companion.place == ("tokenizer",) for companion in found)


def test_a_bucket_has_no_revisions_and_a_gguf_model_keeps_its_own_tokenizer_file() -> None:
    assert companions({"tokenizer_revision": "v3"}, model=reference("chat", "s3://bucket/name")) == []
    (found,) = companions({"tokenizer_revision": "v3"}, model=reference("chat", "org/name:Q8_0"))
    assert (str(found.reference), found.reference.part) == ("hf://org/name:Q8_0@v3", ":Q8_0")


async def test_a_tokenizer_follows_the_models_revision_and_its_own_one_wins(
    daemon: DaemonProcess, hub: HubStub, held: list[Any]
) -> None:
    for engine in ({"revision": "v2", "tokenizer": "org/tokens"}, {"revision": "v2", "tokenizer": "org/name"}):
        assert tokenizer(await started("org/name", engine, socket=daemon.socket)) == b"v2"
    own = {"revision": "v2", "tokenizer": "org/tokens", "tokenizer_revision": "main"}
    assert tokenizer(await started("org/name", own, socket=daemon.socket)) == b"main"


async def test_a_models_own_tokenizer_may_be_of_another_revision_than_the_model(
    daemon: DaemonProcess, hub: HubStub, held: list[Any]
) -> None:
    engine = await started("org/name", {"tokenizer_revision": "v2"}, socket=daemon.socket)
    assert tokenizer(engine) == b"v2"
    assert Path(engine["model"], "tokenizer.json").read_bytes() == b"main"
    assert "model.safetensors" not in os.listdir(engine["tokenizer"])
    assert len(held) == 2


@pytest.mark.parametrize(
    ("source", "code"),
    [("org/name", "v2"), ("org/name@v2", "main"), ("hf://org/name", "0123456789abcdef0123456789abcdef01234567")],
)
async def test_code_of_another_revision_than_the_model_is_refused_with_what_to_do_and_nothing_stays_held(
    daemon: DaemonProcess, hub: HubStub, held: list[Any], source: str, code: str
) -> None:
    from cached import InvalidRequest

    wanted = {"code_revision": code, "trust_remote_code": True}
    with pytest.raises(InvalidRequest, match=rf"org/name.*{code}.*leave code_revision out, or make it the model's"):
        await started(source, wanted, socket=daemon.socket)
    assert held == []
    with daemon.client() as client:
        assert [item["leased"] for item in client.call("GET", "/v1/snapshots")["snapshots"]] == [False]


async def test_code_that_the_engine_runs_as_it_was_told_is_no_trouble(
    daemon: DaemonProcess, hub: HubStub, held: list[Any]
) -> None:
    commit = hub.repositories["org/name"].refs["main"]
    trust = {"trust_remote_code": True}
    for source, engine in (
        ("org/name", {"code_revision": commit, **trust}),
        ("org/name", {"code_revision": "v2", "revision": "v2", **trust}),
        ("org/name", {"code_revision": "v2"}),  # None may run.
        ("org/plain", {"code_revision": "v2", **trust}),  # There is none.
        ("org/others", {"code_revision": "v2", **trust}),  # Transformers fetches it, at that revision.
    ):
        assert (await started(source, engine, socket=daemon.socket))["model"] == held[-1].path


async def test_code_of_a_draft_model_or_of_another_configuration_is_refused_alike(
    daemon: DaemonProcess, hub: HubStub, held: list[Any]
) -> None:
    from cached import InvalidRequest

    draft = {"model": "org/name", "code_revision": "v2", "num_speculative_tokens": 1}
    with pytest.raises(InvalidRequest, match=r"Cannot load the draft model hf://org/name.*leave code_revision out"):
        await started("org/plain", {"speculative_config": draft, "trust_remote_code": True}, socket=daemon.socket)
    other = {"hf_config_path": "org/name", "code_revision": "v2", "trust_remote_code": True}
    with pytest.raises(InvalidRequest, match=r"Cannot load the hf config path hf://org/name.*leave code_revision out"):
        await started("org/plain", other, socket=daemon.socket)


async def test_without_a_daemon_the_engine_is_told_the_revisions_that_names_had(
    tmp_path: Path, held: list[Any]
) -> None:
    draft = {"model": "org/draft@v3", "num_speculative_tokens": 1}
    written = {"tokenizer": "org/t@v2", "speculative_config": draft}
    engine = await started("org/name", written, socket=tmp_path / "nobody")
    assert (engine["tokenizer"], engine["tokenizer_revision"]) == ("org/t", "v2")
    assert engine["speculative_config"] == {"model": "org/draft", "revision": "v3", "num_speculative_tokens": 1}
    assert draft["model"] == "org/draft@v3"  # The user's own dictionary.


async def test_without_a_daemon_another_repositorys_tokenizer_does_not_take_a_revision_that_the_models_name_had(
    tmp_path: Path, held: list[Any]
) -> None:
    engine = await started("org/name@v2", {"tokenizer": "org/t"}, socket=tmp_path / "nobody")
    assert (engine["model"], engine["revision"]) == ("org/name", "v2")
    assert (engine["tokenizer"], engine["tokenizer_revision"]) == ("org/t", "main")
    engine = await started("org/name", {"tokenizer": "org/t", "revision": "v2"}, socket=tmp_path / "nobody")
    assert "tokenizer_revision" not in engine


@pytest.mark.parametrize("key", ["generation_config", "hf_config_path"])
async def test_without_a_daemon_a_revision_that_the_engine_cannot_be_told_fails_the_replica(
    tmp_path: Path, held: list[Any], key: str
) -> None:
    from cached import DaemonUnavailable

    with pytest.raises(DaemonUnavailable, match=r"org/c@v2.* no fallback: .* its name alone means another"):
        await started("org/name", {key: "org/c@v2"}, socket=tmp_path / "nobody")
    engine = await started("org/name", {"hf_config_path": "org/c", "revision": "v2"}, socket=tmp_path / "nobody")
    assert (engine["hf_config_path"], engine["revision"]) == ("org/c", "v2")
