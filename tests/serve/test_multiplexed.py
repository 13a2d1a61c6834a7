"""A model for a user's own `@serve.multiplexed`, against a real daemon."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cached import ModelNotFound
from serve_integration import HeldModel, held_model
from tests.daemon_process import DaemonProcess

if TYPE_CHECKING:
    from tests.demo.local_ray import LocalRay


@pytest.fixture
def uri(make_model: Callable[..., Path], daemon: DaemonProcess) -> str:
    folder = make_model()
    daemon.start(protocols=["file"], file_roots=[str(folder.parent)])
    return f"file://{folder}"


def leased(daemon: DaemonProcess) -> bool:
    with daemon.client() as client:
        (snapshot,) = client.call("GET", "/v1/snapshots")["snapshots"]
        return bool(snapshot["leased"])


async def test_the_directory_is_held_until_serve_evicts_the_model(daemon: DaemonProcess, uri: str) -> None:
    held = await held_model(uri, socket=daemon.socket)
    assert Path(held.path, "config.json").read_bytes() == b"{}"
    assert (held.hit, leased(daemon)) == (False, True)
    held.__del__()
    held.__del__()
    assert not leased(daemon)


async def test_a_request_that_still_uses_it_keeps_it_until_its_block_ends(daemon: DaemonProcess, uri: str) -> None:
    held = await held_model(uri, socket=daemon.socket)
    with held as outer:
        with held:
            held.__del__()
        assert leased(daemon)
        assert Path(outer.path, "config.json").exists()
    assert not leased(daemon)


async def test_a_block_that_ends_before_eviction_ends_nothing(daemon: DaemonProcess, uri: str) -> None:
    held = await held_model(uri, socket=daemon.socket)
    with held:
        pass
    assert leased(daemon)
    held.release()
    assert not leased(daemon)


async def test_an_object_that_nobody_has_any_more_holds_nothing(daemon: DaemonProcess, uri: str) -> None:
    held: HeldModel | None = await held_model(uri, socket=daemon.socket)
    assert held is not None and leased(daemon)
    held = None
    gc.collect()
    assert not leased(daemon)


async def test_the_options_of_acquire_reach_the_daemon(daemon: DaemonProcess, uri: str) -> None:
    held = await held_model(uri, socket=daemon.socket, include=["*.json"])
    assert [path.name for path in Path(held.path).iterdir()] == ["config.json"]
    with pytest.raises(ModelNotFound, match="no file matches"):
        await held_model(uri, socket=daemon.socket, include=["x.none"])


@pytest.mark.serve
@pytest.mark.timeout(300)
def test_in_a_deployment_of_the_users_own_serves_eviction_ends_the_lease(
    local_ray: LocalRay, make_model: Callable[..., Path], daemon: DaemonProcess
) -> None:
    from ray import serve

    place = make_model("one", {"weights": b"first"}).parent
    make_model("two", {"weights": b"second"})
    daemon.start(protocols=["file"], file_roots=[str(place)])
    socket = str(daemon.socket)

    @serve.deployment(ray_actor_options={"num_cpus": 0})
    class Models:
        @serve.multiplexed(max_num_models_per_replica=1)
        async def model(self, name: str) -> HeldModel:
            held = await held_model(f"file://{place}/{name}", socket=socket)
            held.model = Path(held.path, "weights").read_text()
            return held

        async def __call__(self) -> str:
            with await self.model(serve.get_multiplexed_model_id()) as held:
                return f"{held.model} {'hit' if held.hit else 'miss'}"

    def holding() -> set[str]:
        with daemon.client() as client:
            found = client.call("GET", "/v1/snapshots")["snapshots"]
        return {item["source"].rpartition("/")[2] for item in found if item["leased"]}

    handle = serve.run(Models.bind(), name="multiplexed", route_prefix="/multiplexed")
    try:
        for name, said in (("one", "first miss"), ("two", "second miss"), ("one", "first hit")):
            assert handle.options(multiplexed_model_id=name).remote().result(timeout_s=60) == said
            assert holding() == {name}
    finally:
        local_ray.delete("multiplexed")
    assert holding() == set()
