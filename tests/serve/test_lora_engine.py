"""When an adapter goes: rules over an engine that writes down what it is told, and real leases."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed, which comes with Ray")

from fastapi import HTTPException

from serve_integration.lora.adapter import Adapter, load_adapter
from serve_integration.lora.engine import EngineAdapters
from serve_integration.settings import Settings
from tests.daemon_process import DaemonProcess
from tests.serve.adapters import take_here


class Engine:
    """What vLLM's registry and engine do with adapters. `said` is what was asked of them, in order."""

    def __init__(self) -> None:
        self._oai_models = SimpleNamespace(lora_requests={})
        self._engine_client = self
        self.said: list[Any] = []
        self.broken = False
        self.dead = False
        self.may_load = asyncio.Event()
        self.may_load.set()

    async def load(self, adapter: Any) -> None:
        await self.may_load.wait()
        if self.broken:
            raise ValueError("LoRA rank 64 is greater than max_lora_rank 8.")
        assert adapter.model_id not in self._oai_models.lora_requests  # As vLLM does, which refuses it then.
        self.said.append(("load", adapter.local_path))
        number = len(self.said)
        self._oai_models.lora_requests[adapter.model_id] = SimpleNamespace(lora_int_id=number)

    async def remove_lora(self, number: int) -> None:
        if self.dead:
            raise RuntimeError("EngineDeadError")
        self.said.append(("remove", number))

    async def reset_prefix_cache(self, reset_running_requests: bool = False) -> None:
        self.said.append("reset")


class Replica:
    """The part of a replica that matters: Serve's cache of one adapter for each name, and requests."""

    def __init__(self, daemon: DaemonProcess, place: str) -> None:
        self.engine = Engine()
        self.adapters = EngineAdapters(self.engine)
        self.settings = Settings.of({"socket": daemon.socket, "max_age": 0})
        self.place = place
        self.loaded: dict[str, Adapter] = {}

    async def adapter(self, name: str) -> Adapter:
        if name not in self.loaded:
            self.loaded[name] = await load_adapter(f"chat:{name}", self.place, self.settings, None, take_here)
        return self.loaded[name]

    async def start(self, name: str) -> tuple[asyncio.Task[None], asyncio.Event]:
        """A request that the engine works on, until the event is set."""
        done, resolved = asyncio.Event(), asyncio.Event()

        async def serve() -> None:
            try:
                await self.adapters.resolve(await self.adapter(name), self.engine.load)
            finally:
                resolved.set()
            await done.wait()

        task = asyncio.create_task(serve())
        await resolved.wait()
        return task, done

    async def request(self, name: str) -> None:
        task, done = await self.start(name)
        done.set()
        await task
        await self.settle()

    async def evict(self, name: str) -> None:
        """As Serve does it: in a thread."""
        await asyncio.to_thread(self.loaded.pop(name).__del__)
        await self.settle()

    async def settle(self) -> None:
        """Until every adapter that is leaving has left, or waits for a request."""
        await asyncio.sleep(0)
        while self.adapters._leaving:
            await asyncio.gather(*self.adapters._leaving)
            await asyncio.sleep(0)


@pytest.fixture
def write(make_model: Callable[..., Path]) -> Callable[..., Path]:
    """One adapter, of this content."""

    def write(name: str, content: bytes) -> Path:
        return make_model(name, {"adapter_config.json": b"{}", "adapter_model.safetensors": content})

    return write


@pytest.fixture
async def replica(write: Callable[..., Path], daemon: DaemonProcess) -> Replica:
    write("one", b"one")
    place = write("two", b"two").parent
    daemon.start(protocols=["file"], file_roots=[str(place)])
    return Replica(daemon, f"file://{place}")


def leased(daemon: DaemonProcess) -> set[str]:
    """The paths of what is held."""
    with daemon.client() as client:
        found = client.call("GET", "/v1/snapshots")["snapshots"]
    return {str(daemon.root / "snapshots" / item["digest"].removeprefix("sha256:")) for item in found if item["leased"]}


async def test_the_engine_is_told_once_and_forgets_what_serve_evicts(daemon: DaemonProcess, replica: Replica) -> None:
    await replica.request("one")
    await replica.request("one")
    path = replica.loaded["one"].path
    assert replica.engine.said == [("load", path)]
    assert leased(daemon) == {path}
    await replica.evict("one")
    assert replica.engine.said == [("load", path), ("remove", 1)]
    assert replica.engine._oai_models.lora_requests == {}
    assert leased(daemon) == set()


async def test_an_evicted_adapter_stays_until_its_last_request_has_ended(
    daemon: DaemonProcess, replica: Replica
) -> None:
    first, first_done = await replica.start("one")
    second, second_done = await replica.start("one")
    path = replica.loaded["one"].path
    await replica.evict("one")
    first_done.set()
    await first
    await replica.settle()
    assert (leased(daemon), replica.engine.said) == ({path}, [("load", path)])
    assert "chat:one" in replica.engine._oai_models.lora_requests
    second_done.set()
    await second
    await replica.settle()
    assert (leased(daemon), replica.engine.said[-1]) == (set(), ("remove", 1))


async def test_a_cancelled_request_uses_it_no_longer(daemon: DaemonProcess, replica: Replica) -> None:
    task, _ = await replica.start("one")
    await replica.evict("one")
    assert leased(daemon)
    task.cancel()
    await asyncio.wait([task])
    await replica.settle()
    assert leased(daemon) == set()


async def test_an_adapter_that_comes_back_while_it_is_used_is_not_loaded_again(
    daemon: DaemonProcess, replica: Replica
) -> None:
    task, done = await replica.start("one")
    await replica.evict("one")
    await replica.request("one")
    done.set()
    await task
    await replica.settle()
    path = replica.loaded["one"].path
    assert (leased(daemon), replica.engine.said) == ({path}, [("load", path)])
    await replica.evict("one")
    assert (leased(daemon), len(replica.engine.said)) == (set(), 2)


async def test_requests_that_come_while_it_is_loading_wait_for_it(daemon: DaemonProcess, replica: Replica) -> None:
    adapter = await replica.adapter("one")
    replica.engine.may_load.clear()
    both = [asyncio.create_task(replica.adapters.resolve(adapter, replica.engine.load)) for _ in range(2)]
    await asyncio.sleep(0)
    await replica.evict("one")
    assert leased(daemon) == {adapter.path}
    replica.engine.may_load.set()
    await asyncio.gather(*both)
    await replica.settle()
    assert [what for what, _ in replica.engine.said] == ["load", "remove"]
    assert leased(daemon) == set()


async def test_new_content_under_the_same_name_is_loaded_afresh_without_what_the_old_one_computed(
    daemon: DaemonProcess, replica: Replica, write: Callable[..., Path]
) -> None:
    await replica.request("one")
    old = replica.loaded["one"].path
    await replica.evict("one")
    write("one", b"newer")
    await replica.request("one")
    new = replica.loaded["one"].path
    assert replica.engine.said == [("load", old), ("remove", 1), "reset", ("load", new)]
    assert leased(daemon) == {new}


async def test_new_content_waits_until_no_request_uses_the_old_one(
    daemon: DaemonProcess, replica: Replica, write: Callable[..., Path]
) -> None:
    task, done = await replica.start("one")
    old = replica.loaded["one"].path
    await replica.evict("one")
    write("one", b"newer")
    later, later_done = await replica.start("one")
    done.set()
    await task
    await replica.settle()
    assert replica.engine.said == [("load", old)]
    assert old in leased(daemon)
    later_done.set()
    await later
    await replica.settle()
    await replica.request("one")
    new = replica.loaded["one"].path
    assert replica.engine.said[1:] == [("remove", 1), "reset", ("load", new)]
    assert leased(daemon) == {new}


async def test_what_the_engine_refuses_is_said_and_asked_of_the_source_again(
    daemon: DaemonProcess, replica: Replica, write: Callable[..., Path]
) -> None:
    replica.engine.broken = True
    for _ in range(2):
        with pytest.raises(HTTPException, match=r"cannot load the adapter chat:one from file.*LoRA rank 64") as raised:
            await replica.adapters.resolve(await replica.adapter("one"), replica.engine.load)
        assert raised.value.status_code == 400
    write("one", b"mended")
    replica.engine.broken = False
    await replica.request("one")
    assert replica.engine.said == [("load", replica.loaded["one"].path)]
    assert Path(replica.loaded["one"].path, "adapter_model.safetensors").read_bytes() == b"mended"
    assert leased(daemon) == {replica.loaded["one"].path}


async def test_a_dead_engine_holds_nothing(daemon: DaemonProcess, replica: Replica) -> None:
    await replica.request("one")
    replica.engine.dead = True
    await replica.evict("one")
    assert leased(daemon) == set()


async def test_two_adapters_do_not_touch_each_other(daemon: DaemonProcess, replica: Replica) -> None:
    await replica.request("one")
    await replica.request("two")
    await replica.evict("one")
    assert leased(daemon) == {replica.loaded["two"].path}
    assert list(replica.engine._oai_models.lora_requests) == ["chat:two"]


async def test_one_that_ray_fetched_goes_to_the_engine_unless_ours_is_there(
    daemon: DaemonProcess, replica: Replica
) -> None:
    foreign = SimpleNamespace(model_id="chat:one", local_path="/tmp/ray/one")
    await replica.adapters.resolve_foreign(foreign, replica.engine.load)
    assert replica.engine.said == [("load", "/tmp/ray/one")]
    await replica.request("one")
    assert replica.engine.said[1:] == [("remove", 1), ("load", replica.loaded["one"].path)]
    await replica.adapters.resolve_foreign(foreign, replica.engine.load)
    assert len(replica.engine.said) == 3


async def test_one_that_is_about_to_leave_stays_for_a_request_that_finds_it(
    daemon: DaemonProcess, replica: Replica
) -> None:
    await replica.request("one")
    adapter, done = replica.loaded.pop("one"), asyncio.Event()

    async def serve() -> None:
        await replica.adapters.resolve_foreign(SimpleNamespace(model_id="chat:one"), replica.engine.load)
        await done.wait()

    task = asyncio.create_task(serve())  # Runs before what follows takes effect.
    adapter.release()
    await replica.settle()
    await replica.settle()
    assert leased(daemon) == {adapter.path}
    done.set()
    await task
    await replica.settle()
    assert (leased(daemon), len(replica.engine.said)) == (set(), 2)


async def test_when_the_loop_has_gone_dropping_it_still_ends_the_lease(daemon: DaemonProcess, replica: Replica) -> None:
    def replica_that_ends() -> None:
        async def serve() -> None:
            other = Replica(daemon, replica.place)
            await other.request("one")
            kept.append(other.loaded["one"])

        asyncio.run(serve())

    kept: list[Adapter] = []
    await asyncio.to_thread(replica_that_ends)
    assert leased(daemon) == {kept[0].path}
    kept.clear()
    gc.collect()
    assert leased(daemon) == set()
