"""Mirrors in buckets, model and extra files: a callback in this process against a real daemon and real servers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon_process import DaemonProcess
from tests.servers import AzureStub, CountingProxy, GcsEmulator, HubStub, RcloneS3

if TYPE_CHECKING:
    from tests.demo.local_ray import LocalRay

pytestmark = pytest.mark.serve

MODEL = {"config.json": b"{}", "model.safetensors": os.urandom(200_000)}
TEMPLATES = {"chat.jinja": b"{{ messages }}", "more/tool.jinja": b"{{ tools }}"}


@pytest.fixture
def held() -> Iterator[list[Any]]:
    """The leases of this process, which stands in for a replica; ended with the test."""
    from serve_integration.replica import replica_lease

    yield replica_lease._leases
    while replica_lease._leases:
        replica_lease._leases.pop().release()


@pytest.fixture(scope="module")
def bucket() -> Iterator[RcloneS3]:
    with RcloneS3() as server:
        for folder, files in (("llama", MODEL), ("templates", TEMPLATES)):
            for name, data in files.items():
                server.put("models", f"{folder}/{name}", data)
        yield server


@pytest.fixture
def keys(bucket: RcloneS3, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `runtime_env` gives a replica."""
    for name, value in bucket.credentials.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def at_s3(bucket: RcloneS3, daemon: DaemonProcess, keys: None) -> Iterator[CountingProxy]:
    """A daemon without any keys of its own, and what counts its traffic."""
    with CountingProxy(bucket.endpoint) as proxy:
        daemon.start(s3_endpoint=proxy.endpoint, max_age="1h")
        yield proxy


def callback(source: Any, **settings: Any) -> Any:
    from ray.serve.llm import LLMConfig

    from serve_integration import CachedModelCallback

    config = LLMConfig(
        model_loading_config={"model_id": "chat", "model_source": source},
        placement_group_config={"bundles": [{"CPU": 1}]},
    )
    return CachedModelCallback(config, **settings)


def mirror(destination: Path | str, uri: str = "s3://models/templates") -> dict[str, Any]:
    extra = {"bucket_uri": uri, "destination_path": str(destination)}
    return {"bucket_uri": "s3://models/llama", "extra_files": [extra]}


async def start(source: Any, **settings: Any) -> Any:
    """What Ray does with the callback in a replica that starts."""
    subject = callback(source, **settings)
    await subject.run_callback("on_before_node_init")
    return subject


def contents(folder: Path | str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "source",
    [
        "s3://models/llama",
        "pyarrow-s3://models/llama",
        {"bucket_uri": "s3://models/llama"},
    ],
)
async def test_every_spelling_of_a_bucket_is_the_same_model(
    daemon: DaemonProcess, at_s3: CountingProxy, held: list[Any], source: Any
) -> None:
    subject = await start(source, socket=daemon.socket, fallback="error")
    assert contents(subject.llm_config.get_engine_config().hf_model_id) == MODEL
    assert held[0].source == "s3://models/llama"


async def test_an_anonymous_bucket_is_read_without_the_replicas_keys(
    daemon: DaemonProcess, held: list[Any], keys: None
) -> None:
    with RcloneS3(auth=False) as server:
        for name, data in MODEL.items():
            server.put("models", f"llama/{name}", data)
        daemon.start(s3_endpoint=server.endpoint)
        subject = await start("s3://anonymous@models/llama", socket=daemon.socket, fallback="error")
        assert contents(subject.llm_config.get_engine_config().hf_model_id) == MODEL


async def test_a_bucket_of_google_is_read_with_gs(daemon: DaemonProcess, held: list[Any]) -> None:
    with GcsEmulator() as server:
        for name, data in MODEL.items():
            server.put("models", f"llama/{name}", data)
        daemon.start(gs_endpoint=server.endpoint)
        for source in ("gs://models/llama", {"bucket_uri": "gs://anonymous@models/llama"}):
            subject = await start(source, socket=daemon.socket, fallback="error")
            assert contents(subject.llm_config.get_engine_config().hf_model_id) == MODEL


@pytest.mark.parametrize("scheme", ["abfss", "azure"])
async def test_a_container_of_azure_is_read_with_the_replicas_key(
    daemon: DaemonProcess, held: list[Any], monkeypatch: pytest.MonkeyPatch, scheme: str, tmp_path: Path
) -> None:
    with AzureStub() as server:
        for name, data in MODEL.items():
            server.put("models", f"llama/{name}", data)
        server.put("models", "templates/chat.jinja", b"{{ messages }}")
        daemon.start(azure_endpoint=server.endpoint, protocols=[scheme])
        place = f"{scheme}://models@{server.account}.dfs.core.windows.net"
        extra = {"bucket_uri": f"{place}/templates", "destination_path": str(tmp_path / "there")}
        source = {"bucket_uri": f"{place}/llama", "extra_files": [extra]}
        with pytest.raises(Exception, match="AZURE_STORAGE_ACCOUNT_KEY"):  # Nobody has one yet.
            await start(source, socket=daemon.socket, fallback="error")
        for name, value in server.credentials.items():
            monkeypatch.setenv(name, value)
        subject = await start(source, socket=daemon.socket, fallback="error")
        assert contents(subject.llm_config.get_engine_config().hf_model_id) == MODEL
        assert contents(tmp_path / "there") == {"chat.jinja": b"{{ messages }}"}


async def test_the_wish_for_hf_transfer_changes_nothing(
    daemon: DaemonProcess, held: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_ENABLE_HF_TRANSFER", "1")
    with HubStub() as hub:
        hub.add_commit("org/name", MODEL)
        daemon.start(hub_endpoint=hub.endpoint)
        subject = await start("org/name", socket=daemon.socket, fallback="error")
        assert contents(subject.llm_config.get_engine_config().hf_model_id) == MODEL


async def test_extra_files_come_out_of_the_cache_and_ray_fetches_nothing(
    daemon: DaemonProcess, at_s3: CountingProxy, held: list[Any], tmp_path: Path
) -> None:
    wanted = mirror(tmp_path / "there")
    for _ in range(2):
        subject = await start(wanted, socket=daemon.socket, fallback="error")
        assert contents(tmp_path / "there") == TEMPLATES
        assert subject.ctx.run_init_node is False
        assert subject.llm_config.get_engine_config().mirror_config is None
        seen = at_s3.connections
        at_s3.reset()
    assert (seen, at_s3.bytes_down) == (0, 0)  # The second start asked nobody.


async def test_extra_files_of_a_hub_model_or_a_local_one_come_out_of_the_cache_too(
    daemon: DaemonProcess, at_s3: CountingProxy, held: list[Any], tmp_path: Path
) -> None:
    from ray.llm._internal.common.utils.cloud_utils import CloudMirrorConfig

    subject = callback(str(tmp_path), socket=daemon.socket, fallback="error")
    engine = subject.llm_config.get_engine_config()
    engine.mirror_config = CloudMirrorConfig(extra_files=mirror(tmp_path / "there")["extra_files"])
    await subject.on_before_node_init()
    assert contents(tmp_path / "there") == TEMPLATES
    assert engine.mirror_config.extra_files == []
    assert engine.hf_model_id == str(tmp_path)


async def test_a_destination_may_name_variables_of_the_node_and_a_home(
    daemon: DaemonProcess, at_s3: CountingProxy, held: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PLACE", "named")
    await start(mirror("~/${PLACE}/x"), socket=daemon.socket, fallback="error")
    assert contents(tmp_path / "named" / "x") == TEMPLATES


@pytest.mark.parametrize(
    ("destination", "file"),
    [("chat.jinja", "chat.jinja"), ("folder/", "folder/chat.jinja"), ("there", "there/chat.jinja")],
)
async def test_one_object_becomes_the_destination_or_goes_into_the_folder(
    daemon: DaemonProcess, at_s3: CountingProxy, held: list[Any], tmp_path: Path, destination: str, file: str
) -> None:
    (tmp_path / "target" / "there").mkdir(parents=True)
    wanted = mirror(f"{tmp_path}/target/{destination}", "s3://models/templates/chat.jinja")
    await start(wanted, socket=daemon.socket, fallback="error")
    assert contents(tmp_path / "target") == {file: TEMPLATES["chat.jinja"]}


@pytest.mark.parametrize("key", ["draft.gguf", "quants/draft.gguf", "quants/chat:v2"])
async def test_extra_files_are_what_their_uri_names_whatever_the_name_looks_like(
    bucket: RcloneS3, daemon: DaemonProcess, at_s3: CountingProxy, held: list[Any], tmp_path: Path, key: str
) -> None:
    bucket.put("quants", key, b"wanted")
    bucket.put("quants", "other.gguf", b"not wanted")
    bucket.put("quants", "quants/chat/other", b"not wanted")
    await start(mirror(tmp_path / "there" / "file", f"s3://quants/{key}"), socket=daemon.socket, fallback="error")
    assert contents(tmp_path / "there") == {"file": b"wanted"}


async def test_what_lies_at_a_destination_is_the_users_own_and_what_is_right_is_left_alone(
    daemon: DaemonProcess, at_s3: CountingProxy, held: list[Any], tmp_path: Path
) -> None:
    there = tmp_path / "there"
    await start(mirror(there), socket=daemon.socket, fallback="error")
    untouched = (there / "more/tool.jinja").stat()
    (there / "chat.jinja").write_bytes(b"changed by hand")
    (there / "mine").write_bytes(b"also there")
    await start(mirror(there), socket=daemon.socket, fallback="error")
    assert contents(there) == {**TEMPLATES, "mine": b"also there"}
    assert (there / "more/tool.jinja").stat() == untouched
    assert daemon.cli("verify", "--deep").returncode == 0
    assert (there / "chat.jinja").stat().st_mode & 0o200


async def test_a_destination_that_cannot_be_written_fails_the_replica_with_one_sentence(
    daemon: DaemonProcess, at_s3: CountingProxy, held: list[Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Exception, match="destination_path") as raised:
        await start(mirror(tmp_path / "file" / "below"), socket=daemon.socket)
    for part in ("s3://models/templates", str(tmp_path / "file" / "below"), "Not a directory"):
        assert part in str(raised.value)


async def test_extra_files_that_are_not_there_fail_the_replica_where_ray_would_go_on_without_them(
    daemon: DaemonProcess, at_s3: CountingProxy, held: list[Any], tmp_path: Path
) -> None:
    with pytest.raises(Exception, match="s3://models/nothing"):
        await start(mirror(tmp_path / "there", "s3://models/nothing"), socket=daemon.socket)
    assert not (tmp_path / "there").exists()


async def test_without_a_daemon_ray_fetches_the_extra_files(tmp_path: Path, held: list[Any]) -> None:
    subject = await start(mirror(tmp_path / "there"), socket=tmp_path / "nobody")
    assert [extra.bucket_uri for extra in subject.llm_config.get_engine_config().mirror_config.extra_files] == [
        "s3://models/templates"
    ]
    assert subject.ctx.run_init_node is True


async def test_where_the_daemon_goes_after_the_model_came_ray_fetches_the_extra_files_alone(
    daemon: DaemonProcess,
    at_s3: CountingProxy,
    held: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray.llm._internal.common.utils.download_utils import NodeModelDownloadable

    from cached import DaemonUnavailable
    from serve_integration import callback as module

    async def gone(*_: Any) -> None:
        raise DaemonUnavailable("There is no cached daemon.")

    monkeypatch.setattr(module, "place_everywhere", gone)
    subject = await start(mirror(tmp_path / "there"), socket=daemon.socket)
    engine = subject.llm_config.get_engine_config()
    assert subject.ctx.run_init_node is True
    assert subject.ctx.worker_node_download_model is NodeModelDownloadable.NONE
    assert [extra.bucket_uri for extra in engine.mirror_config.extra_files] == ["s3://models/templates"]
    await subject.on_after_node_init()
    assert (engine.mirror_config, engine.hf_model_id) == (None, held[0].path)


def test_a_copy_is_made_by_hand_where_the_kernel_will_not(
    tmp_path: Path, make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from serve_integration.models.model_source import Reference
    from serve_integration.replica.extra_files import ExtraFiles, copy

    def refuse(*_: Any) -> int:
        raise OSError(errno.EXDEV, "not across file systems")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    folder = make_model()
    extra = ExtraFiles(Reference("s3://models/other"), str(tmp_path / "there"))
    assert [copy(str(folder), extra), copy(str(folder), extra)] == [2, 0]
    assert contents(tmp_path / "there") == contents(folder)


@pytest.mark.timeout(600)
def test_a_mirror_with_extra_files_and_keys_in_the_runtime_env_is_deployed(
    local_ray: LocalRay, daemon: DaemonProcess, bucket: RcloneS3, llama: dict[str, bytes], tmp_path: Path
) -> None:
    """And `HF_HUB_ENABLE_HF_TRANSFER` breaks nothing. The daemon has no keys, and neither has Ray's driver."""
    import asyncio

    import ray

    from cached import CachedError
    from serve_integration import build_openai_app
    from serve_integration.models.model_source import Reference
    from serve_integration.replica.extra_files import ExtraFiles, _place_on
    from serve_integration.settings import Settings
    from tests.demo.local_ray import serving_args

    for name, data in llama.items():
        bucket.put("models", f"real/{name}", data)
    environment = {**bucket.credentials, "HF_HUB_ENABLE_HF_TRANSFER": "1"}
    source = {**mirror(tmp_path / "there"), "bucket_uri": "s3://models/real"}
    arguments = serving_args("mirror", source, runtime_env={"env_vars": environment})
    with CountingProxy(bucket.endpoint) as proxy:
        daemon.start(s3_endpoint=proxy.endpoint, max_age="1h")
        settings = {"socket": str(daemon.socket), "fallback": "error"}
        local_ray.deploy(build_openai_app({**arguments, "cached": settings}), "mirror")
        assert local_ray.first_chat("mirror", "mirror")
        local_ray.delete("mirror")
        loaded = local_ray.loaded()[-1]
        assert (loaded.model, Path(loaded.path).parent) == ("s3://models/real", daemon.root / "snapshots")
        assert contents(tmp_path / "there") == TEMPLATES

        # A node that the replica uses beside its own: this one again, by a task of Ray's.
        extras = [ExtraFiles(Reference("s3://models/templates"), "${ELSEWHERE}/x")]
        node = ray.get_runtime_context().get_node_id()
        environment["ELSEWHERE"] = str(tmp_path / "other")
        plain = Settings(socket=str(daemon.socket))
        asyncio.run(_place_on(node, extras, plain, {"env_vars": environment}))
        assert contents(tmp_path / "other" / "x") == TEMPLATES
        wrong = [ExtraFiles(Reference("s3://models/nothing"), "${ELSEWHERE}/y")]
        with pytest.raises(CachedError, match=r"On node .*s3://models/nothing"):
            asyncio.run(_place_on(node, wrong, plain, {"env_vars": environment}))
