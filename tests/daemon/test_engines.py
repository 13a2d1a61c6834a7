"""How bytes are fetched is a setting; what is published is not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cached import Progress
from tests.daemon_process import DaemonProcess
from tests.servers import HubStub

MIB = 1 << 20
SHARD = os.urandom(40 * MIB + 123)
MODEL = {"config.json": b"{}", "model.safetensors": SHARD}


@pytest.fixture
def hub() -> Iterator[HubStub]:
    with HubStub() as server:
        yield server


@pytest.mark.parametrize("how", ["setting", "variable"])
def test_hf_transfer_fetches_large_files_and_they_are_verified_like_any(
    daemon: DaemonProcess, hub: HubStub, how: str
) -> None:
    hub.add_commit("org/llama", MODEL)
    if how == "variable":
        daemon.environment["HF_HUB_ENABLE_HF_TRANSFER"] = "1"
    daemon.environment["HF_TOKEN"] = "hf_canary"
    daemon.start(hub_endpoint=hub.endpoint, **({"engine": "hf_transfer"} if how == "setting" else {}))
    seen: list[Progress] = []
    with daemon.client() as client, client.acquire("hf://org/llama", progress=seen.append) as lease:
        assert {name: Path(lease.path, name).read_bytes() for name in MODEL} == MODEL
    agents = {request.headers.get("user-agent", "") for request in hub.requests if request.server == "cdn"}
    ranges = [request for request in hub.requests if request.server == "cdn" and "range" in request.headers]
    assert ranges and "cached" not in agents
    assert not [request for request in hub.requests if request.server == "cdn" and "authorization" in request.headers]
    assert seen[-1].done_bytes <= seen[-1].total_bytes


def test_hundreds_of_small_files_are_one_model(daemon: DaemonProcess, hub: HubStub) -> None:
    files = {f"part-{number:04}.json": os.urandom(20 + number % 50) for number in range(700)}
    files |= {"twin-a.json": b"same", "twin-b.json": b"same"}
    hub.add_commit("org/many", files)
    daemon.start(hub_endpoint=hub.endpoint)
    with daemon.client() as client, client.acquire("hf://org/many") as lease:
        assert {path.name: path.read_bytes() for path in Path(lease.path).iterdir()} == files
    assert not daemon.files("ingest")
