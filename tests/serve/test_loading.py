"""What a replica holds is read ahead of its engine: a real callback and a real daemon, without a cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cached import Lease
from serve_integration.models.model_source import Reference
from serve_integration.replica.prefetch_policy import reading
from serve_integration.settings import Settings
from tests.daemon_process import DaemonProcess
from tests.page_cache import forget, on_a_disk, resident
from tests.serve.test_callback import callback, held

__all__ = ["held"]
SIZE = 40 << 20


@pytest.fixture
def model(make_model: Callable[..., Path], daemon: DaemonProcess) -> Iterator[str]:
    with on_a_disk() as folder:
        daemon.root = folder / "root"
        source = make_model(files={"config.json": b"{}", "model.safetensors": SIZE})
        daemon.start(protocols=["file"], file_roots=[str(source.parent)])
        yield f"file://{source}"
        daemon.stop()


def cold(daemon: DaemonProcess, model: str) -> Path:
    """The weights, held by nobody and not in the page cache."""
    with daemon.client() as client:
        weights = Path(client.pull(model).path, "model.safetensors")
    forget(weights)
    assert resident(weights) == 0
    return weights


def join_readers() -> int:
    readers = [thread for thread in threading.enumerate() if thread.name == "cached-prefetch"]
    for reader in readers:
        reader.join(60)
    return len(readers)


@pytest.mark.serve
async def test_on_a_hit_the_model_is_in_memory_before_the_engine_asks_for_it(
    daemon: DaemonProcess, model: str, held: list[Any]
) -> None:
    weights = cold(daemon, model)
    subject = callback(model, socket=daemon.socket)
    await subject.on_before_node_init()
    assert subject._held.hit
    join_readers()
    assert resident(weights) == SIZE


@pytest.mark.serve
async def test_what_holds_the_model_on_another_node_reads_it_ahead_there(daemon: DaemonProcess, model: str) -> None:
    from serve_integration.replica.node_lease import NodeHolder

    weights = cold(daemon, model)
    holder = NodeHolder()
    await holder.hold(Reference(model), Settings(socket=str(daemon.socket)))
    join_readers()
    assert isinstance(holder._hold, Lease)
    holder._hold.release()
    assert resident(weights) == SIZE


@pytest.mark.serve
@pytest.mark.parametrize(
    ("engine", "settings"), [({}, {"prefetch": False}), ({"load_format": "dummy"}, {}), ({}, {"prefetch": 1e-6})]
)
async def test_nothing_is_read_ahead_where_the_user_an_engine_without_weights_or_the_memory_says_so(
    daemon: DaemonProcess, model: str, held: list[Any], engine: dict[str, Any], settings: dict[str, Any]
) -> None:
    weights = cold(daemon, model)
    await callback(model, engine=engine, socket=daemon.socket, **settings).on_before_node_init()
    started = join_readers()
    assert started == 0 or "prefetch" in settings
    assert resident(weights) == 0


@pytest.mark.parametrize(
    ("engine", "share"),
    [
        ({}, 0.5),
        ({"load_format": "runai_streamer"}, 0.5),
        ({"safetensors_load_strategy": "lazy"}, 0.5),
        ({"load_format": "dummy"}, 0.0),
        ({"load_format": "instanttensor"}, 0.0),
        ({"safetensors_load_strategy": "prefetch"}, 0.0),
    ],
)
def test_reading_ahead_follows_how_the_engine_was_told_to_load(engine: dict[str, Any], share: float) -> None:
    assert reading(engine, Settings(socket="/s")) == Settings(socket="/s", prefetch=share)
    assert reading(engine, Settings(prefetch=0.0)).prefetch == 0.0
