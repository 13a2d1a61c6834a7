"""One replica of a real engine over two Ray nodes, each with a daemon of its own behind the same paths."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.daemon_process import DaemonProcess
from tests.servers.hub import HubStub
from tests.waiting import until

if TYPE_CHECKING:
    from tests.demo.local_ray import LocalRay
    from tests.serve.far_node import FarNode

pytestmark = [
    pytest.mark.serve,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="other nodes need mount namespaces, which need root"),
]

PLUGIN = Path(__file__).with_name("cpu_over_ray")


@pytest.fixture
def hub(llama: dict[str, bytes]) -> Iterator[HubStub]:
    with HubStub() as stub:
        stub.add_commit("org/llama", llama)
        yield stub


@pytest.fixture
def nodes(local_ray: LocalRay, daemon: DaemonProcess, hub: HubStub) -> Iterator[list[FarNode]]:
    """Two, with a GPU each as far as Ray knows. The daemon whose paths they share does not run."""
    from tests.serve.far_node import FarNode

    with FarNode(daemon, "first", gpus=1) as first, FarNode(daemon, "second", gpus=1) as second:
        for node in (first, second):
            node.daemon.start(node.enter, hub_endpoint=hub.endpoint)
        yield [first, second]


def leases(node: FarNode) -> list[str]:
    with node.daemon.client() as client:
        return [lease["digest"] for lease in client.call("GET", "/v1/leases")["leases"] if lease["held"]]


def test_an_engine_in_two_parts_reads_each_from_its_own_nodes_copy(
    local_ray: LocalRay, daemon: DaemonProcess, hub: HubStub, nodes: list[FarNode]
) -> None:
    from serve_integration import build_openai_app
    from tests.demo.local_ray import serving_args

    path = os.pathsep.join([str(PLUGIN), *filter(None, [os.environ.get("PYTHONPATH")])])
    variables = {"PYTHONPATH": path, "CACHED_SOCKET": str(daemon.socket)}
    group = {"bundles": [{"CPU": 1, "GPU": 1}] * 2, "strategy": "STRICT_SPREAD"}
    arguments = serving_args("parts", "org/llama", placement_group_config=group, runtime_env={"env_vars": variables})
    arguments["llm_configs"][0]["engine_kwargs"]["tensor_parallel_size"] = 2
    arguments["cached"] = {"fallback": "error"}
    before = len(local_ray.loaded())
    local_ray.deploy(build_openai_app(arguments), "parts")
    local_ray.wait("parts")  # Both parts have loaded: the engine has measured what memory they leave.
    loaded = local_ray.loaded()[before:]
    assert len({(copy.path, copy.digest) for copy in loaded}) == 1
    assert [copy.hit for copy in loaded] == [False, False]  # Each node has fetched it.
    assert Path(loaded[0].path).parent == daemon.root / "snapshots"
    assert not daemon.root.exists()  # Only behind the mounts of the nodes.
    assert [leases(node) for node in nodes] == [[loaded[0].digest]] * 2
    assert local_ray.first_chat("parts", "parts")
    local_ray.delete("parts")
    until(lambda: [leases(node) for node in nodes] == [[], []])
