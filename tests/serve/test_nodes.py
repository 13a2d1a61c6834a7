"""A replica on two Ray nodes, each with a daemon of its own behind the same paths. See far_node.py."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cached.store.snapshots.locks import holders
from tests.daemon_process import DaemonProcess
from tests.servers.hub import HubStub
from tests.waiting import until

if TYPE_CHECKING:
    from tests.demo.local_ray import LocalRay
    from tests.serve.far_node import FarNode

pytestmark = [
    pytest.mark.serve,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="a second node needs a mount namespace, which needs root"),
]


@pytest.fixture(scope="module")
def hub() -> Iterator[HubStub]:
    with HubStub() as stub:
        yield stub


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def settings(hub: HubStub, models: Path) -> dict[str, Any]:
    return {"hub_endpoint": hub.endpoint, "protocols": ["hf", "file"], "file_roots": [str(models)], "max_age": "1h"}


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory, settings: dict[str, Any]) -> Iterator[DaemonProcess]:
    process = DaemonProcess(tmp_path_factory.mktemp("near"), **settings)
    yield process
    process.close()


@pytest.fixture(scope="module")
def node(local_ray: LocalRay, near: DaemonProcess, settings: dict[str, Any]) -> Iterator[FarNode]:
    from tests.serve.far_node import FarNode

    with FarNode(near) as node:
        near.start()
        node.daemon.start(node.enter, **settings)
        yield node


@pytest.fixture
def far(node: FarNode) -> DaemonProcess:
    return node.daemon


@pytest.fixture
def replica(near: DaemonProcess, node: FarNode) -> Iterator[Any]:
    """A process on the near node with a placement group over both, which loads as the callback does."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    from tests.serve.replica_actor import replica_class

    group = ray.util.placement_group([{"CPU": 1}, {"far": 1}], strategy="STRICT_SPREAD")
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
    variables = {"CACHED_SOCKET": str(near.socket)}
    options = {"num_cpus": 1, "scheduling_strategy": strategy, "runtime_env": {"env_vars": variables}}
    actor = ray.remote(replica_class()).options(**options).remote()
    yield actor
    ray.kill(actor)
    ray.util.remove_placement_group(group)
    until(lambda: leases(near) == leases(node.daemon) == [])


def get(answer: Any) -> Any:
    import ray

    return ray.get(answer, timeout=120)


def leases(daemon: DaemonProcess) -> list[tuple[str, int]]:
    """The digests that are held now, and by which process, as the daemon sees it."""
    with daemon.client() as client:
        found = client.call("GET", "/v1/leases")["leases"]
    return [(lease["digest"], lease["pid"]) for lease in found if lease["held"]]


def digests(daemon: DaemonProcess) -> set[str]:
    with daemon.client() as client:
        return {snapshot["digest"] for snapshot in client.call("GET", "/v1/snapshots")["snapshots"]}


def write(models: Path, name: str, weights: bytes = b"weights") -> str:
    """A model's folder; its URI."""
    (models / name).mkdir(exist_ok=True)
    (models / name / "config.json").write_bytes(b"{}")
    (models / name / "model.safetensors").write_bytes(weights)
    return f"file://{models}/{name}"


def test_both_nodes_hold_the_same_model_at_the_same_path_until_the_replica_is_killed(
    replica: Any, near: DaemonProcess, far: DaemonProcess, models: Path
) -> None:
    held = get(replica.load.remote(write(models, "killed")))
    ((here, replica_pid),) = leases(near)
    ((there, holder_pid),) = leases(far)
    assert here == there == held.digest
    assert get(replica.pid.remote()) == replica_pid != holder_pid
    assert Path(held.path).parent == near.root / "snapshots"
    copies = [daemon.root / "snapshots" / Path(held.path).name / "model.safetensors" for daemon in (near, far)]
    assert [copy.read_bytes() for copy in copies] == [b"weights"] * 2
    assert len({copy.stat().st_ino for copy in copies}) == 2  # Two stores, not one seen twice.
    os.kill(replica_pid, signal.SIGKILL)
    until(lambda: leases(near) == leases(far) == [])


def locks(node: DaemonProcess, path: str) -> Path:
    """Where the lock files of a snapshot lie on another node."""
    return node.root / "snapshots" / f"{Path(path).name}.locks"


def test_a_holder_that_is_killed_is_started_again_and_needs_no_daemon_to_hold_again(
    replica: Any, far: DaemonProcess, node: FarNode, models: Path
) -> None:
    held = get(replica.load.remote(write(models, "again")))
    ((digest, first),) = leases(far)
    lock = os.stat(locks(far, held.path) / str(os.geteuid()))
    far.stop()
    os.kill(first, signal.SIGKILL)
    until(lambda: holders().get((0, lock.st_ino), {first}) != {first}, 60)
    far.start(node.enter)
    ((again, second),) = leases(far)
    assert (again, second != first) == (digest, True)
    (warning,) = [line for line in get(replica.log.remote()) if line.startswith("WARNING")]
    assert f"{models}/again on node far (" in warning


def test_a_replica_is_told_when_a_node_cannot_hold_its_model_again(
    replica: Any, far: DaemonProcess, node: FarNode, models: Path
) -> None:
    uri = write(models, "gone")
    held = get(replica.load.remote(uri))
    ((_, holder),) = leases(far)
    far.stop()  # So that nobody holds or fetches it when the next process comes.
    shutil.rmtree(locks(far, held.path))
    os.kill(holder, signal.SIGKILL)
    until(lambda: any(line.startswith("ERROR") for line in get(replica.log.remote())), 60)
    (error,) = [line for line in get(replica.log.remote()) if line.startswith("ERROR")]
    for part in (f"nothing holds {uri} on node far", "restart the replica", "There is no cached daemon"):
        assert part in error
    far.start(node.enter)


def test_a_branch_means_on_every_node_what_it_means_on_the_replicas(
    replica: Any, near: DaemonProcess, far: DaemonProcess, hub: HubStub
) -> None:
    old = hub.add_commit("org/branch", {"config.json": b"{}", "model.safetensors": b"old"})
    with far.client() as client:
        assert client.pull("org/branch").revision == old
    new = hub.add_commit("org/branch", {"model.safetensors": b"new"})
    held = get(replica.load.remote("hf://org/branch@main"))
    assert held.revision == new
    assert [digest for digest, _ in leases(near) + leases(far)] == [held.digest] * 2


def test_what_the_replicas_node_knows_is_not_asked_for_again_by_any(
    replica: Any, near: DaemonProcess, far: DaemonProcess, hub: HubStub
) -> None:
    old = hub.add_commit("org/known", {"config.json": b"{}", "model.safetensors": b"old"})
    with near.client() as client:
        client.pull("org/known")
    hub.add_commit("org/known", {"model.safetensors": b"new"})
    names = hub.count("/api/models/org/known/revision/main")
    held = get(replica.load.remote("hf://org/known"))
    assert held.revision == old
    assert held.hit
    assert [digest for digest, _ in leases(near) + leases(far)] == [held.digest] * 2
    assert hub.count("/api/models/org/known/revision/main") == names  # The other asked for the commit.


def test_a_folder_that_the_nodes_know_in_two_versions_is_asked_for_everywhere(
    replica: Any, near: DaemonProcess, far: DaemonProcess, models: Path
) -> None:
    uri = write(models, "moving", b"old")
    with near.client() as client:
        old = client.pull(uri).digest
    write(models, "moving", b"newer")
    held = get(replica.load.remote(uri))
    assert held.digest != old
    assert [digest for digest, _ in leases(near) + leases(far)] == [held.digest] * 2


def test_a_model_that_one_node_has_whole_is_whole_on_every_node(
    replica: Any, near: DaemonProcess, far: DaemonProcess, hub: HubStub
) -> None:
    hub.add_commit("org/both", {"config.json": b"{}", "model.safetensors": b"safe", "pytorch_model.bin": b"pickled"})
    with far.client() as client:
        whole = client.pull("org/both").digest
    held = get(replica.load.remote("hf://org/both", lean=True))
    assert [digest for digest, _ in leases(near) + leases(far)] == [held.digest] * 2 == [whole] * 2


def test_what_is_held_whole_for_the_other_nodes_sake_is_whole_again_when_its_holder_is_started_again(
    replica: Any, near: DaemonProcess, far: DaemonProcess, node: FarNode, hub: HubStub
) -> None:
    hub.add_commit("org/mixed", {"config.json": b"{}", "model.safetensors": b"sure", "pytorch_model.bin": b"pickles"})
    with near.client() as client:
        whole = client.pull("org/mixed").digest
    held = get(replica.load.remote("hf://org/mixed", lean=True))
    ((digest, holder),) = leases(far)
    assert digest == whole
    far.stop()
    shutil.rmtree(far.root / "snapshots" / Path(held.path).name)
    os.unlink(far.root / "snapshots" / f"{Path(held.path).name}.json")
    shutil.rmtree(locks(far, held.path))
    far.start(node.enter)
    os.kill(holder, signal.SIGKILL)
    until(lambda: leases(far) or any(line.startswith("ERROR") for line in get(replica.log.remote())), 60)
    assert [digest for digest, _ in leases(far)] == [whole], get(replica.log.remote())


def test_why_a_model_was_wanted_whole_is_said_when_a_node_has_no_room_for_all_of_it(
    replica: Any, near: DaemonProcess, far: DaemonProcess, node: FarNode, hub: HubStub
) -> None:
    large = {"model.safetensors": b"lean", "pytorch_model.bin": os.urandom(1 << 20)}
    hub.add_commit("org/large", {"config.json": b"{}", **large})
    with near.client() as client:
        client.pull("org/large")
    known = dict(far._settings)
    far.stop()
    far.config(limit="500KiB")
    far.start(node.enter)
    try:
        found, sentence = get(replica.load.remote("hf://org/large", lean=True))
        assert found == "TooLarge"
        for part in ("node far (", "asked for whole on every node, because the nodes did not have the same"):
            assert part in sentence
        assert leases(near) == []
    finally:
        far.stop()
        far._settings = known
        far.start(node.enter)


def absent(far: DaemonProcess) -> None:
    """Its daemon is not there."""


def full(far: DaemonProcess) -> None:
    far.config(limit="1KiB")


def elsewhere(far: DaemonProcess) -> None:
    far.config(roots=[str(far.folder / "elsewhere")])


@pytest.mark.parametrize(
    ("trouble", "kind", "parts"),
    [
        (absent, "DaemonUnavailable", ["There is no cached daemon at", "start it"]),
        (full, "TooLarge", ["limit"]),
        (elsewhere, "CachedError", ["/elsewhere/", "give every daemon the same root"]),
    ],
)
def test_what_is_wrong_with_one_node_is_one_sentence_that_names_it_and_nothing_is_held(
    replica: Any,
    near: DaemonProcess,
    far: DaemonProcess,
    node: FarNode,
    models: Path,
    trouble: Callable[[DaemonProcess], None],
    kind: str,
    parts: list[str],
) -> None:
    uri = write(models, trouble.__name__, b"x" * 100_000)
    known = dict(far._settings)
    far.stop()
    trouble(far)
    if trouble is not absent:
        far.start(node.enter)
    try:
        found, sentence = get(replica.load.remote(uri))
        assert found == kind
        for part in [*parts, "node far ("]:
            assert part in sentence
        assert "\n" not in sentence
        assert leases(near) == []
        if trouble is not absent:
            until(lambda: leases(far) == [])
    finally:
        far.stop()
        far._settings = known
        far.start(node.enter)
    assert get(replica.load.remote(uri)).path  # The next try, after the mend.
    assert [digest for digest, _ in leases(near)] == [digest for digest, _ in leases(far)]


def test_only_nodes_of_the_placement_group_hold_the_model(local_ray: LocalRay, node: FarNode, replica: Any) -> None:
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    from tests.serve.replica_actor import replica_class

    assert get(replica.other_nodes.remote()) == [node.id]
    alone = ray.util.placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_PACK")
    strategy = PlacementGroupSchedulingStrategy(alone, placement_group_bundle_index=0)
    packed = ray.remote(replica_class()).options(num_cpus=1, scheduling_strategy=strategy).remote()
    assert get(packed.other_nodes.remote()) == []
    ray.kill(packed)
    ray.util.remove_placement_group(alone)


def test_a_node_that_is_lost_ends_its_lease_and_the_replica_is_told(
    replica: Any, near: DaemonProcess, far: DaemonProcess, node: FarNode, models: Path
) -> None:
    uri = write(models, "lost")
    held = get(replica.load.remote(uri))
    assert len(leases(far)) == 1
    node.leave()
    until(lambda: leases(far) == [])
    assert leases(near) == [(held.digest, get(replica.pid.remote()))]
    until(lambda: any(f"nothing holds {uri} on node far" in line for line in get(replica.log.remote())), 60)
    node.join()
