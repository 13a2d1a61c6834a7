"""What goes wrong before a model is there: one sentence that names it and the remedy, and after the mend it loads.

The callback in this process, as Serve runs it, against a real daemon and real servers; the last test is Serve itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon_process import DaemonProcess
from tests.serve.test_callback import callback, held, lines
from tests.servers.disk import SmallDisk
from tests.servers.fault import FaultOrigin
from tests.servers.fault_kinds import EVER
from tests.servers.hub import HubStub
from tests.servers.rclone import RcloneS3
from tests.waiting import until

if TYPE_CHECKING:
    from tests.demo.local_ray import LocalRay

if TYPE_CHECKING:
    pass

__all__ = ["held", "lines"]
pytestmark = pytest.mark.serve

MODEL = {"config.json": b"{}", "model.safetensors": b"weights"}
EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"


@pytest.fixture
def s3(daemon: DaemonProcess) -> Iterator[RcloneS3]:
    with RcloneS3() as server:
        daemon.environment.update(server.credentials)
        daemon.start(s3_endpoint=server.endpoint)
        yield server


@pytest.fixture
def hub(daemon: DaemonProcess) -> Iterator[HubStub]:
    with HubStub() as stub:
        stub.add_commit("org/name", MODEL)
        daemon.start(hub_endpoint=stub.endpoint)
        yield stub


async def refused(subject: Any, *parts: str) -> str:
    """What Serve's status would say: one line, with these parts."""
    with pytest.raises(Exception, match="Error running callback method 'on_before_node_init'") as raised:
        await subject.run_callback("on_before_node_init")
    said = str(raised.value).partition(": ")[2]
    assert said.startswith("Cannot load ") and "\n" not in said
    assert [part for part in parts if part not in said] == [], said
    return said


async def loads(subject: Any) -> list[str]:
    """The names of the files that the engine gets."""
    await subject.run_callback("on_before_node_init")
    return sorted(os.listdir(subject.llm_config.get_engine_config().hf_model_id))


def fill(s3: RcloneS3, prefix: str, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        s3.put("models", f"{prefix}/{name}", data)


async def test_an_empty_place_and_a_mistyped_bucket(daemon: DaemonProcess, s3: RcloneS3, held: list[Any]) -> None:
    s3.bucket("models")
    await refused(callback("s3://models/llama", socket=daemon.socket), "s3://models/llama", "no model files")
    await refused(callback("s3://modles/llama", socket=daemon.socket), "s3://modles/llama", "check the bucket")
    fill(s3, "llama", MODEL)
    assert await loads(callback("s3://models/llama", socket=daemon.socket)) == sorted(MODEL)


async def test_a_model_without_a_configuration(daemon: DaemonProcess, s3: RcloneS3, held: list[Any]) -> None:
    fill(s3, "llama", {"model.safetensors": b"weights"})
    await refused(callback("s3://models/llama", socket=daemon.socket), "s3://models/llama", "no config.json", "check")
    fill(s3, "llama", MODEL)
    assert await loads(callback("s3://models/llama", socket=daemon.socket)) == sorted(MODEL)


async def test_half_an_upload(daemon: DaemonProcess, s3: RcloneS3, held: list[Any]) -> None:
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = b'{"weight_map": {"a": "%s", "b": "%s"}}' % tuple(name.encode() for name in shards)
    fill(s3, "llama", {"config.json": b"{}", "model.safetensors.index.json": index, shards[0]: b"first"})
    await refused(callback("s3://models/llama", socket=daemon.socket), "s3://models/llama", shards[1], "finish the")
    fill(s3, "llama", {shards[1]: b"second"})
    assert set(shards) < set(await loads(callback("s3://models/llama", socket=daemon.socket)))


async def test_a_revision_that_is_not_there(daemon: DaemonProcess, hub: HubStub, held: list[Any]) -> None:
    engine = {"revision": "v1"}
    await refused(callback("org/name", engine=engine, socket=daemon.socket), "hf://org/name@v1", "no revision 'v1'")
    hub.tag("org/name", "v1", hub.repositories["org/name"].refs["main"])
    assert await loads(callback("org/name", engine=engine, socket=daemon.socket)) == sorted(MODEL)


async def test_a_key_of_s3_that_has_expired(
    daemon: DaemonProcess, held: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "EXPIRED")
    with FaultOrigin() as origin:
        origin.put("llama", MODEL)
        daemon.start(s3_endpoint=origin.endpoint)
        for stage in ("list", "body"):
            origin.fail("status", status=400, body=EXPIRED, stages=(stage,), times=EVER)
            await refused(callback("s3://bucket/llama", socket=daemon.socket), "s3://bucket/llama", "check", "AWS keys")
            origin.heal()
        assert await loads(callback("s3://bucket/llama", socket=daemon.socket)) == sorted(MODEL)


async def test_a_token_of_the_hub_that_has_expired(
    daemon: DaemonProcess, hub: HubStub, held: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.hide("org/name", "hf_new")
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    await refused(callback("org/name", socket=daemon.socket), "hf://org/name", "HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", "hf_new")
    hub.fail(401, times=1000)  # What the Hub answers to a token that it does not know, even for open models.
    await refused(callback("org/name", socket=daemon.socket), "hf://org/name", "HF_TOKEN")
    hub.reset()
    assert await loads(callback("org/name", socket=daemon.socket)) == sorted(MODEL)


async def test_a_limit_that_is_too_small_and_a_store_that_others_hold(
    daemon: DaemonProcess, s3: RcloneS3, held: list[Any]
) -> None:
    daemon.stop()
    daemon.start(limit="1MB")
    fill(s3, "large", {**MODEL, "model.safetensors": os.urandom(1_100_000)})
    fill(s3, "other", {**MODEL, "model.safetensors": os.urandom(600_000)})
    fill(s3, "llama", {**MODEL, "model.safetensors": os.urandom(600_000)})
    await refused(callback("s3://models/large", socket=daemon.socket), "s3://models/large", "raise `limit`")
    with daemon.client() as client, client.acquire("s3://models/other"):
        await refused(callback("s3://models/llama", socket=daemon.socket), "s3://models/llama", "release or unpin")
    assert await loads(callback("s3://models/llama", socket=daemon.socket)) == sorted(MODEL)
    daemon.stop()
    daemon.start(limit="4MB")
    assert await loads(callback("s3://models/large", socket=daemon.socket)) == sorted(MODEL)


async def test_a_disk_that_something_else_has_filled(
    daemon: DaemonProcess, s3: RcloneS3, held: list[Any], tmp_path: Path
) -> None:
    fill(s3, "llama", {**MODEL, "model.safetensors": os.urandom(8 << 20)})
    daemon.stop()
    with SmallDisk(tmp_path / "small") as disk:
        daemon.root = disk.path / "root"
        daemon.start(limit="1TB")
        try:
            with disk.filled(leave=1 << 20):
                await refused(callback("s3://models/llama", socket=daemon.socket), "s3://models/llama", "free space on")
            assert await loads(callback("s3://models/llama", socket=daemon.socket)) == sorted(MODEL)
        finally:
            while held:
                held.pop().release()
            daemon.kill()


async def test_a_daemon_that_is_stopped_in_the_middle_ends_the_wait_with_the_users_timeout(
    daemon: DaemonProcess, hub: HubStub, held: list[Any], lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cached.client import client

    monkeypatch.setattr(client, "RESTART_SECONDS", 3600.0)  # So that nothing but the timeout ends it.
    subject = callback("org/name", fallback="error", timeout=3, socket=daemon.socket)
    waiting = await stopped_in_the_middle(subject, daemon, hub)
    await refused_task(waiting, "hf://org/name", str(daemon.socket), "start it", "fallback='remote'")
    subject = callback("org/name", timeout=3, socket=daemon.socket)
    daemon.start()
    await (await stopped_in_the_middle(subject, daemon, hub))
    assert subject.llm_config.get_engine_config().hf_model_id == "org/name"
    assert subject.ctx.run_init_node is True
    assert [line.split()[0] for line in lines] == ["WARNING"]
    daemon.start()
    assert await loads(callback("org/name", timeout=60, socket=daemon.socket)) == sorted(MODEL)


async def test_a_daemon_that_is_back_in_time_goes_on_where_it_was(
    daemon: DaemonProcess, hub: HubStub, held: list[Any]
) -> None:
    subject = callback("org/name", fallback="error", socket=daemon.socket)
    waiting = await stopped_in_the_middle(subject, daemon, hub)
    daemon.start()
    await waiting
    assert subject.llm_config.get_engine_config().hf_model_id == held[0].path


async def stopped_in_the_middle(subject: Any, daemon: DaemonProcess, hub: HubStub) -> asyncio.Task[Any]:
    """The daemon is killed while the callback waits for it and it waits for the Hub."""
    hub.reset()
    hub.pause()
    waiting = asyncio.create_task(subject.run_callback("on_before_node_init"))
    await asyncio.to_thread(until, lambda: hub.count() > 0)
    daemon.kill()
    hub.resume()
    return waiting


async def refused_task(waiting: asyncio.Task[Any], *parts: str) -> None:
    class Waited:
        async def run_callback(self, _: str) -> None:
            await waiting

    await refused(Waited(), *parts)


@pytest.mark.timeout(900)
def test_serves_status_says_it_on_one_line_and_after_the_mend_the_application_comes_up(
    local_ray: LocalRay, daemon: DaemonProcess, tmp_path: Path
) -> None:
    """Several applications that are wrong at once, since each is a replica that starts."""
    from serve_integration import build_openai_app
    from tests.demo.llama import make_llama
    from tests.demo.local_ray import serving_args

    files = {path.name: path.read_bytes() for path in make_llama(tmp_path / "llama", shard="100KB").iterdir()}
    last = max(name for name in files if name.endswith(".safetensors"))
    other = DaemonProcess(tmp_path / "other")

    def deploy(name: str, source: str, socket: Path, **variables: str) -> None:
        runtime_env = {"env_vars": variables}
        arguments = serving_args(name, source, runtime_env=runtime_env)
        arguments["cached"] = {"socket": str(socket), "fallback": "error", "timeout": 20}
        local_ray.deploy(build_openai_app(arguments), name)

    with RcloneS3() as s3, HubStub() as hub, HubStub() as slow:
        fill(s3, "half", {name: data for name, data in files.items() if name != last})
        fill(s3, "large", {"config.json": b"{}", "model.safetensors": bytes(5 << 20)})
        hub.add_commit("org/private", files)
        hub.hide("org/private", "hf_new")
        slow.add_commit("org/slow", files)
        slow.pause()
        daemon.environment.update(s3.credentials)
        daemon.start(s3_endpoint=s3.endpoint, hub_endpoint=hub.endpoint, limit="4MB")
        other.start(hub_endpoint=slow.endpoint)
        try:
            deploy("half", "s3://models/half", daemon.socket)
            deploy("large", "s3://models/large", daemon.socket)
            deploy("expired", "org/private", daemon.socket, HF_TOKEN="hf_old")
            deploy("cut", "org/slow", other.socket)
            until(lambda: slow.count() > 0, seconds=200)
            other.kill()
            expected = {
                "half": ["s3://models/half", last, "finish the upload"],
                "large": ["s3://models/large", "raise `limit`"],
                "expired": ["hf://org/private", "HF_TOKEN"],
                "cut": ["hf://org/slow", str(other.socket), "start it", "fallback='remote'"],
            }
            for name, parts in expected.items():
                said = local_ray.wait_for_trouble(name, "Cannot load")
                (sentence, *_) = [line for line in said.splitlines() if "Cannot load" in line]
                assert [part for part in parts if part not in sentence] == [], sentence
                local_ray.delete(name)
        finally:
            slow.resume()
            other.close()
        fill(s3, "half", {last: files[last]})
        deploy("half", "s3://models/half", daemon.socket)
        assert local_ray.first_chat("half", "half")
        local_ray.delete("half")
