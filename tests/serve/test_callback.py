"""The callback in this process, against a real daemon. Needs Ray and vLLM, but no cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_process import DaemonProcess
from tests.servers.hub import HubStub

pytestmark = pytest.mark.serve


def callback(source: Any, *, engine: dict[str, Any] | None = None, model_id: str = "chat", **settings: Any) -> Any:
    from ray.serve.llm import LLMConfig

    from serve_integration import CachedModelCallback

    config = LLMConfig(
        model_loading_config={"model_id": model_id, "model_source": source},
        placement_group_config={"bundles": [{"CPU": 1}]},
        engine_kwargs=engine or {},
    )
    return CachedModelCallback(config, **settings)


@pytest.fixture
def held() -> Iterator[list[Any]]:
    """The leases of this process, which stands in for a replica; ended with the test."""
    from serve_integration.replica import replica_lease

    yield replica_lease._leases
    while replica_lease._leases:
        replica_lease._leases.pop().release()


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    found: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(f"{record.levelname} {record.getMessage()}")

    logger = logging.getLogger("ray.serve.cached")
    keep = Keep()
    logger.addHandler(keep)
    monkeypatch.setattr(logger, "level", logging.INFO)
    yield found
    logger.removeHandler(keep)


@pytest.fixture
def model(make_model: Callable[..., Path], daemon: DaemonProcess) -> str:
    """A URI below the daemon's file roots."""
    folder = make_model()
    daemon.start(protocols=["file", "hf"], file_roots=[str(folder.parent)])
    return f"file://{folder}"


async def test_the_engine_is_pointed_at_the_snapshot_and_ray_downloads_nothing(
    daemon: DaemonProcess, model: str, held: list[Any], lines: list[str]
) -> None:
    subject = callback(model, socket=daemon.socket)
    await subject.on_before_node_init()
    engine = subject.llm_config.get_engine_config()
    assert engine.hf_model_id.startswith(str(daemon.root / "snapshots"))
    assert engine.mirror_config is None
    assert subject.ctx.run_init_node is False
    assert engine.get_initialization_kwargs()["served_model_name"] == ["chat"]
    assert os.listdir(engine.hf_model_id)


async def test_one_line_says_where_the_model_is_and_what_it_took(
    daemon: DaemonProcess, model: str, held: list[Any], lines: list[str]
) -> None:
    for outcome in ("miss", "hit"):
        lines.clear()
        await callback(model, socket=daemon.socket).on_before_node_init()
        (line,) = lines
        for part in (f"model={model}", f"path={held[-1].path}", f"digest={held[-1].digest}", outcome, "bytes=100002"):
            assert part in line


async def test_the_lease_outlives_the_callback(daemon: DaemonProcess, model: str, held: list[Any]) -> None:
    await callback(model, socket=daemon.socket).on_before_node_init()
    with daemon.client() as client:
        client.call("POST", "/v1/gc", {"free": 1 << 40})
        assert [item["leased"] for item in client.call("GET", "/v1/snapshots")["snapshots"]] == [True]


async def test_the_callback_can_be_pickled_while_the_process_holds_the_lease(
    daemon: DaemonProcess, model: str, held: list[Any]
) -> None:
    from ray import cloudpickle

    subject = callback(model, socket=daemon.socket)
    await subject.on_before_node_init()
    copy = cloudpickle.loads(cloudpickle.dumps(subject))
    assert copy.llm_config.get_engine_config().hf_model_id == held[0].path


@pytest.mark.parametrize(
    ("engine", "settings", "lean"),
    [
        ({}, {}, True),
        ({"load_format": "runai_streamer"}, {}, True),
        ({"load_format": "pt"}, {}, False),
        ({"load_format": "of_a_plugin"}, {}, False),
        ({"ignore_patterns": []}, {}, False),
        ({}, {"include": ["*"]}, False),
        ({}, {"exclude": ["*.md"]}, False),
    ],
)
async def test_what_vllm_would_not_read_is_left_out_unless_the_user_says_what_to_fetch(
    make_model: Callable[..., Path],
    daemon: DaemonProcess,
    held: list[Any],
    engine: dict[str, Any],
    settings: dict[str, Any],
    lean: bool,
) -> None:
    files = {"config.json", "model.safetensors"}
    idle = {"pytorch_model.bin", "original/consolidated.00.pth"}
    folder = make_model("both", dict.fromkeys(files | idle, 10))
    daemon.start(protocols=["file"], file_roots=[str(folder.parent)])
    await callback(f"file://{folder}", engine=engine, socket=daemon.socket, **settings).on_before_node_init()
    found = {str(path.relative_to(held[0].path)) for path in Path(held[0].path).rglob("*") if path.is_file()}
    assert found == (files if lean else files | idle)


async def test_a_local_path_is_left_alone_and_needs_no_daemon(tmp_path: Path, held: list[Any]) -> None:
    subject = callback(str(tmp_path), fallback="error", socket=tmp_path / "nobody")
    await subject.on_before_node_init()
    assert subject.llm_config.get_engine_config().hf_model_id == str(tmp_path)
    assert subject.ctx.run_init_node is True
    assert held == []


async def test_without_a_daemon_ray_loads_as_it_would_and_is_warned_about(
    tmp_path: Path, held: list[Any], lines: list[str]
) -> None:
    subject = callback("s3://bucket/prefix", socket=tmp_path / "nobody")
    engine = subject.llm_config.get_engine_config()
    before = engine.model_dump()
    await subject.on_before_node_init()
    assert engine.model_dump() == before
    assert subject.ctx.run_init_node is True
    (line,) = lines
    assert line.startswith("WARNING")
    assert "s3://bucket/prefix" in line
    assert "no cached daemon" in line


async def test_without_a_daemon_a_hub_uri_becomes_what_ray_knows(tmp_path: Path, held: list[Any]) -> None:
    subject = callback("hf://org/name@v1", socket=tmp_path / "nobody")
    await subject.on_before_node_init()
    engine = subject.llm_config.get_engine_config()
    assert (engine.hf_model_id, engine.engine_kwargs["revision"]) == ("org/name", "v1")


async def test_without_a_daemon_fallback_error_names_the_model_and_what_to_do(tmp_path: Path, held: list[Any]) -> None:
    subject = callback("s3://bucket/prefix", fallback="error", socket=tmp_path / "nobody")
    with pytest.raises(Exception, match="Error running callback") as raised:
        await subject.run_callback("on_before_node_init")
    for part in ("s3://bucket/prefix", str(tmp_path / "nobody"), "start it", "fallback='remote'"):
        assert part in str(raised.value)


async def test_a_refusal_is_raised_whatever_the_fallback(
    tmp_path: Path, make_model: Callable[..., Path], daemon: DaemonProcess, held: list[Any]
) -> None:
    from cached import InvalidRequest, ModelIncomplete, ModelNotFound

    make_model("weights", {"model.safetensors": 10})
    (tmp_path / "models" / "empty").mkdir()
    daemon.start(protocols=["file"], file_roots=[str(tmp_path / "models")])
    wrong = {"weights": ModelIncomplete, "empty": ModelNotFound}
    for name, kind in wrong.items():
        with pytest.raises(kind, match=name):
            await callback(f"file://{tmp_path}/models/{name}", socket=daemon.socket).on_before_node_init()
    with pytest.raises(InvalidRequest, match="azure"):
        await callback("azure://box@account/prefix", socket=daemon.socket).on_before_node_init()
    assert held == []


async def test_the_engines_revision_and_the_patterns_reach_the_source(daemon: DaemonProcess, held: list[Any]) -> None:
    with HubStub() as hub:
        old = hub.add_commit("org/name", {"config.json": b"{}", "model.safetensors": b"old", "x.bin": b"not wanted"})
        hub.add_commit("org/name", {"model.safetensors": b"new"})
        daemon.start(hub_endpoint=hub.endpoint)
        subject = callback(None, model_id="org/name", engine={"revision": old}, exclude=["*.bin"], socket=daemon.socket)
        await subject.on_before_node_init()
        files = {path.name: path.read_bytes() for path in Path(held[0].path).iterdir()}
        assert files == {"config.json": b"{}", "model.safetensors": b"old"}


async def test_a_denied_model_fails_with_one_sentence_that_names_it(daemon: DaemonProcess, held: list[Any]) -> None:
    from cached import SourceDenied

    with HubStub() as hub:
        hub.add_commit("org/name", {"config.json": b"{}", "model.safetensors": b"x"})
        hub.gate("org/name", "hf_right")
        daemon.start(hub_endpoint=hub.endpoint)
        with pytest.raises(SourceDenied, match="org/name"):
            await callback("org/name", socket=daemon.socket).on_before_node_init()


def test_a_long_fetch_is_reported_now_and_then(lines: list[str]) -> None:
    from cached import Progress
    from serve_integration.replica.acquire import Reporter

    now = [0.0]
    report = Reporter("org/name", clock=lambda: now[0])
    for second in range(40):
        now[0] = float(second)
        report(Progress("fetching", done_bytes=second, total_bytes=40, cached_bytes=1))
    assert [line.rpartition(": ")[2] for line in lines] == ["15 of 40 bytes", "30 of 40 bytes"]
