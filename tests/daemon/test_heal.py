"""Damage at rest: found, put aside, and mended by fetching no more than what is damaged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cached import NotCached
from cached.model import PIECE_BYTES
from tests.daemon_process import DaemonProcess
from tests.servers import CountingProxy, HubStub, RcloneS3
from tests.waiting import until

MIB = 1 << 20
SHARD = os.urandom(5 * PIECE_BYTES + 1000)
URIS = {"s3": "s3://bucket/m", "hub": "hf://org/m"}


@pytest.fixture(scope="module")
def s3() -> Iterator[RcloneS3]:
    with RcloneS3(etags=False) as server:
        server.put("bucket", "m/config.json", b"{}")
        server.put("bucket", "m/model.safetensors", SHARD)
        yield server


@pytest.fixture
def hub() -> Iterator[HubStub]:
    with HubStub() as server:
        server.add_commit("org/m", {"config.json": b"{}", "model.safetensors": SHARD})
        yield server


@pytest.fixture
def node(daemon: DaemonProcess, s3: RcloneS3, proxy: CountingProxy, hub: HubStub) -> DaemonProcess:
    daemon.environment.update(s3.credentials)
    daemon.config(s3_endpoint=proxy.endpoint, s3_region="us-east-1", hub_endpoint=hub.endpoint, self_heal=False)
    return daemon


def flip(path: Path, *offsets: int) -> None:
    """Turn a bit over at each offset, so that neither size nor times tell."""
    before = path.stat()
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 0x10]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def damage(daemon: DaemonProcess, *offsets: int) -> Path:
    """The blob of the shard, damaged while nobody watches."""
    daemon.stop()
    (blob,) = (path for path in (daemon.root / "blobs").rglob("*") if path.stat().st_size == len(SHARD))
    flip(blob, *offsets)
    return blob


def fetched(hub: HubStub, proxy: CountingProxy) -> int:
    return proxy.bytes_down + sum(hub.file_bytes.values())


def only_snapshot(daemon: DaemonProcess) -> dict[str, Any]:
    with daemon.client() as client:
        (found,) = client.call("GET", "/v1/snapshots")["snapshots"]
        details: dict[str, Any] = client.call("GET", f"/v1/snapshots/{found['digest']}")
        return details


@pytest.mark.parametrize("source", ["s3", "hub"])
@pytest.mark.parametrize("restarted", [False, True])
def test_only_the_damaged_pieces_are_fetched_again(
    node: DaemonProcess, proxy: CountingProxy, hub: HubStub, source: str, restarted: bool
) -> None:
    path = Path(node.start().client().pull(URIS[source]).path)
    damage(node, 10, PIECE_BYTES - 1, 3 * PIECE_BYTES + 5)
    node.start()
    assert node.cli("verify").returncode == 6
    if restarted:
        node.kill()
        node.start()
    proxy.reset()
    before = fetched(hub, proxy)
    assert node.cli("verify", "--repair").returncode == 0
    assert 2 * PIECE_BYTES <= fetched(hub, proxy) - before < 2 * PIECE_BYTES + 200_000
    assert (path / "model.safetensors").read_bytes() == SHARD
    assert node.cli("verify", "--deep").returncode == 0
    assert node.status()["used"] == len(SHARD) + 2


def test_a_scrub_finds_what_no_event_tells_of_and_it_is_mended_without_anybody_asking(
    node: DaemonProcess, proxy: CountingProxy
) -> None:
    with node.start().client() as client:
        ready = client.pull(URIS["s3"])
    damage(node, 3 * PIECE_BYTES)
    proxy.reset()
    node.start(self_heal=True, scrub_interval="100ms")
    until(lambda: any(event["what"] == "mended" for event in only_snapshot(node)["history"]))
    assert (Path(ready.path) / "model.safetensors").read_bytes() == SHARD
    assert proxy.bytes_down < PIECE_BYTES + 200_000
    status = node.status()
    assert (status["scrub_damaged"], status["damaged"]) == (1, 0)
    assert [event["what"] for event in only_snapshot(node)["history"]] == ["ready", "damaged", "ready", "mended"]


def test_holders_are_told_and_find_the_mended_files_under_the_same_path(node: DaemonProcess) -> None:
    client = node.start().client()
    lease = client.acquire(URIS["s3"])
    assert not client.damaged(lease)
    with (Path(lease.path) / "model.safetensors").open("rb") as old:
        damage(node, 7)
        node.start()
        assert node.cli("verify", "--repair").returncode == 0
        assert old.read(8)[7] != SHARD[7], "the file that it has open is the damaged one"
    assert (Path(lease.path) / "model.safetensors").read_bytes() == SHARD
    assert client.damaged(lease)
    assert [each["reopen"] for each in client.call("GET", "/v1/leases")["leases"]] == [True]
    assert str(os.getpid()) in only_snapshot(node)["history"][-1]["why"]
    lease.release()
    renewed = client.acquire(URIS["s3"])
    assert [each["reopen"] for each in client.call("GET", "/v1/leases")["leases"]] == [False]
    renewed.release()


def test_what_cannot_be_fetched_again_is_said_and_not_handed_out(
    node: DaemonProcess, s3: RcloneS3, proxy: CountingProxy
) -> None:
    s3.put("bucket", "lost/config.json", b"{}")
    s3.put("bucket", "lost/model.safetensors", SHARD)
    with node.start().client() as client:
        client.pull("s3://bucket/lost")
    damage(node, 7)
    s3.put("bucket", "lost/model.safetensors", b"another model altogether")
    node.start()
    mended = node.cli("verify", "--repair")
    assert mended.returncode == 6 and "another version" in mended.stdout
    assert "s3://bucket/lost" in node.cli("ls").stdout
    with node.client() as client, pytest.raises(NotCached):
        client.path("s3://bucket/lost")
    assert node.status()["damaged"] == 1


def test_a_damaged_file_is_kept_for_a_look_until_its_room_is_needed(node: DaemonProcess) -> None:
    with node.start(limit=4 * len(SHARD)).client() as client:
        client.pull(URIS["s3"])
        damage(node, 7)
        node.start()
        assert node.cli("verify", "--repair").returncode == 0
        assert node.status()["quarantined"] >= len(SHARD)
        client.pull("hf://org/m", exclude=["*.safetensors"])
        assert node.status()["quarantined"] >= len(SHARD)
        assert node.cli("gc").returncode == 0
        assert node.status()["quarantined"] == 0
