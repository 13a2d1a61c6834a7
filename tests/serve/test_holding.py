"""A replica that uses several nodes: one holder on each. Here they are actors on this node; see also test_nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon_process import DaemonProcess

if TYPE_CHECKING:
    from tests.demo.local_ray import LocalRay

pytestmark = [pytest.mark.serve, pytest.mark.timeout(300)]


@pytest.fixture
def model(make_model: Callable[..., Path], daemon: DaemonProcess) -> Path:
    folder = make_model()
    daemon.start(protocols=["file"], file_roots=[str(folder.parent)])
    return folder


@pytest.fixture
def holding() -> Iterator[Any]:
    from serve_integration.replica import replica_lease

    yield replica_lease
    while replica_lease._leases:
        replica_lease._leases.pop().release()
    while replica_lease._holders:
        replica_lease._holders.pop().release()


def here() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


async def hold(holding: Any, model: Path, *other_nodes: str, socket: str | None = None, **variables: str) -> Any:
    """Here with `socket`, and in an actor for each other node, which has these variables."""
    from serve_integration.models.model_source import Reference
    from serve_integration.settings import Settings

    runtime_env = {"env_vars": variables} if variables else None
    settings = Settings.of({"socket": socket})
    return holding.keep(await holding.take(Reference(f"file://{model}"), settings, other_nodes, runtime_env))


def holders(daemon: DaemonProcess) -> set[int]:
    with daemon.client() as client:
        return {lease["pid"] for lease in client.call("GET", "/v1/leases")["leases"] if lease["held"]}


def leased(daemon: DaemonProcess) -> list[bool]:
    with daemon.client() as client:
        return [snapshot["leased"] for snapshot in client.call("GET", "/v1/snapshots")["snapshots"]]


async def test_every_node_of_a_replica_holds_the_model_at_the_same_path(
    local_ray: LocalRay, daemon: DaemonProcess, model: Path, holding: Any
) -> None:
    held = await hold(holding, model, here(), here(), socket=str(daemon.socket))
    assert Path(held.path).parent == daemon.root / "snapshots"
    assert len(holders(daemon)) == 3


async def test_an_error_on_another_node_is_the_callers_and_nothing_stays_held(
    local_ray: LocalRay, daemon: DaemonProcess, model: Path, holding: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cached import DaemonUnavailable

    monkeypatch.setenv("CACHED_SOCKET", str(daemon.socket))
    with pytest.raises(DaemonUnavailable, match="There is no cached daemon at /nowhere"):
        await hold(holding, model, here(), CACHED_SOCKET="/nowhere")
    assert leased(daemon) == [False]


async def test_nodes_that_know_a_moving_name_in_two_versions_ask_again_and_must_share_a_root(
    local_ray: LocalRay,
    daemon: DaemonProcess,
    model: Path,
    holding: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cached import CachedError

    with daemon.client() as client:
        old = client.pull(f"file://{model}").digest
    (model / "model.safetensors").write_bytes(b"newer")
    monkeypatch.setenv("CACHED_SOCKET", str(daemon.socket))
    other = DaemonProcess(tmp_path / "other")
    try:
        other.start(protocols=["file"], file_roots=[str(model.parent)])
        with pytest.raises(CachedError, match="give every daemon the same root") as raised:
            await hold(holding, model, here(), CACHED_SOCKET=str(other.socket))
    finally:
        other.close()
    with daemon.client() as client:
        digests = {snapshot["digest"] for snapshot in client.call("GET", "/v1/snapshots")["snapshots"]}
    (new,) = digests - {old}
    assert str(raised.value).count(new.removeprefix("sha256:")) == 2  # Both had the newer one by then.
    assert leased(daemon) == [False, False]
