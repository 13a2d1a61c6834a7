"""What Ray Serve does with replicas: more of them, other ones, dead ones, none. See who holds what, and what came."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon_process import DaemonProcess
from tests.servers.hub import HubStub
from tests.waiting import until

if TYPE_CHECKING:
    from tests.demo.local_ray import LocalRay

pytestmark = [pytest.mark.serve, pytest.mark.timeout(600)]

MODEL = "hf://org/model"
WEIGHTS = "model.safetensors"
SERVE = Path(sys.executable).with_name("serve")


@pytest.fixture
def hub() -> Iterator[HubStub]:
    with HubStub() as stub:
        yield stub


@pytest.fixture
def first(hub: HubStub, daemon: DaemonProcess) -> str:
    """The first commit of the model, at a hub that the daemon asks about branches every time."""
    daemon.start(hub_endpoint=hub.endpoint, max_age=0)
    return hub.add_commit("org/model", {"config.json": b"{}", WEIGHTS: os.urandom(1 << 20)})


@pytest.fixture
def application(daemon: DaemonProcess, tmp_path: Path) -> Callable[..., Any]:
    """A deployment that loads as the callback does and has no engine, so that a replica starts in two seconds."""
    from ray import serve

    stay = str(tmp_path / "stay")

    class Model:
        async def __init__(self, uri: str) -> None:
            from serve_integration.models.model_source import Reference
            from serve_integration.replica.replica_lease import keep, take
            from serve_integration.replica.report import report
            from serve_integration.settings import Settings

            wanted = Reference(uri)
            held = keep(await take(wanted, Settings(socket=str(daemon_socket)), (), None))
            report(wanted, held)

        async def answer(self) -> int:
            """As soon as the file is gone; the process id. Another file says that somebody waits."""
            import asyncio
            import os

            open(f"{stay}.asked", "w").close()
            while os.path.exists(stay):
                await asyncio.sleep(0.02)  # Polling a condition.
            return os.getpid()

    daemon_socket = daemon.socket

    def make(uri: str, **options: Any) -> Any:
        settings = {"num_replicas": 1, "ray_actor_options": {"num_cpus": 0.1}, **options}
        return serve.deployment(Model, name="Model").options(**settings).bind(uri)

    return make


def leases(daemon: DaemonProcess) -> dict[int, str]:
    """What is held now: the digests by process."""
    with daemon.client() as client:
        return {lease["pid"]: lease["digest"] for lease in client.call("GET", "/v1/leases")["leases"] if lease["held"]}


def digests(daemon: DaemonProcess) -> set[str]:
    with daemon.client() as client:
        return {item["digest"] for item in client.call("GET", "/v1/snapshots")["snapshots"]}


def collect_everything(daemon: DaemonProcess) -> None:
    assert daemon.cli("gc", "--free", "1TiB").returncode in (0, 5)  # 5: not that much could be freed.


def downloads(hub: HubStub) -> int:
    return hub.count(f"/{WEIGHTS}")


def running(name: str) -> bool:
    """Also after it was not healthy."""
    from ray import serve

    return bool(serve.status().applications[name].status == "RUNNING")


def handle(name: str) -> Any:
    from ray import serve

    return serve.get_app_handle(name)


def test_autoscaling_to_four_replicas_downloads_once_and_each_has_a_lease(
    local_ray: LocalRay,
    daemon: DaemonProcess,
    hub: HubStub,
    first: str,
    application: Callable[..., Any],
    tmp_path: Path,
) -> None:
    before = len(local_ray.loaded())
    quick = {"upscale_delay_s": 0, "look_back_period_s": 0.5, "metrics_interval_s": 0.2}
    scaling = {"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 1, **quick}
    local_ray.deploy(
        application(MODEL, num_replicas=None, autoscaling_config=scaling, max_ongoing_requests=2), "scaled"
    )
    local_ray.wait("scaled")
    assert len(leases(daemon)) == 1
    came = downloads(hub)
    (tmp_path / "stay").touch()
    answers = [handle("scaled").answer.remote() for _ in range(8)]
    until(lambda: len(leases(daemon)) == 4, 120)
    (tmp_path / "stay").unlink()
    assert {answer.result() for answer in answers} <= set(leases(daemon))
    assert downloads(hub) == came
    assert [loaded.hit for loaded in local_ray.loaded()[before:]] == [False, True, True, True]
    local_ray.delete("scaled")
    until(lambda: leases(daemon) == {})


def test_four_replicas_at_once_download_once(
    local_ray: LocalRay, daemon: DaemonProcess, hub: HubStub, first: str, application: Callable[..., Any]
) -> None:
    with daemon.client() as client:
        client.pull(MODEL)
    once = downloads(hub)
    with daemon.client() as client:
        client.call("POST", "/v1/remove", {"ref": MODEL})
    local_ray.deploy(application(MODEL, num_replicas=4), "four")
    local_ray.wait("four")
    assert len(leases(daemon)) == 4
    assert len(set(leases(daemon).values())) == 1
    assert downloads(hub) == 2 * once
    local_ray.delete("four")


def test_old_replicas_keep_their_revision_until_they_end_and_then_it_can_go(
    local_ray: LocalRay,
    daemon: DaemonProcess,
    hub: HubStub,
    first: str,
    application: Callable[..., Any],
    tmp_path: Path,
) -> None:
    options = {"num_replicas": 2, "graceful_shutdown_timeout_s": 300, "graceful_shutdown_wait_loop_s": 0.1}
    local_ray.deploy(application(MODEL, **options), "rolling")
    local_ray.wait("rolling")
    old = leases(daemon)
    (tmp_path / "stay").touch()
    answer = handle("rolling").answer.remote()  # Whoever has it may not end yet.
    until(lambda: (tmp_path / "stay.asked").exists())
    second = hub.add_commit("org/model", {WEIGHTS: os.urandom(1 << 20)})
    local_ray.deploy(application(f"{MODEL}@{second}", **options), "rolling")
    until(lambda: len(set(leases(daemon).values())) == 2, 120)
    collect_everything(daemon)
    kept = {pid: digest for pid, digest in leases(daemon).items() if pid in old}
    assert kept
    assert kept.items() <= old.items()
    assert set(old.values()) < digests(daemon)

    (tmp_path / "stay").unlink()
    assert answer.result() in old
    until(lambda: len(leases(daemon).keys() - old.keys()) == 2, 120)
    until(lambda: not leases(daemon).keys() & old.keys(), 120)
    collect_everything(daemon)
    assert digests(daemon) == set(leases(daemon).values()) != set(old.values())
    local_ray.delete("rolling")


def test_a_replica_that_is_killed_leaves_no_lease_and_the_next_one_hits(
    local_ray: LocalRay, daemon: DaemonProcess, hub: HubStub, first: str, application: Callable[..., Any]
) -> None:
    local_ray.deploy(application(MODEL, health_check_period_s=0.5), "killed")
    local_ray.wait("killed")
    (before,) = leases(daemon).items()
    came = downloads(hub)
    os.kill(before[0], signal.SIGKILL)
    until(lambda: bool(leases(daemon).keys() - {before[0]}), 120)
    until(lambda: before[0] not in leases(daemon))
    (after,) = leases(daemon).items()
    assert after[1] == before[1]
    until(lambda: running("killed"), 120)
    assert local_ray.loaded()[-1].hit
    assert downloads(hub) == came
    local_ray.delete("killed")


def test_the_dashboard_shows_each_start_in_the_replicas_log_and_in_its_metrics(
    local_ray: LocalRay, daemon: DaemonProcess, first: str, application: Callable[..., Any]
) -> None:
    import ray

    if another_ray_is_here(local_ray):
        pytest.skip("another Ray on this machine has the one port of the dashboard's agent")
    local_ray.deploy(application(MODEL), "shown")
    local_ray.wait("shown")
    loaded = local_ray.loaded()[-1]
    applications = json.loads(dashboard(local_ray, "/api/serve/applications/"))["applications"]
    (replica,) = applications["shown"]["deployments"]["Model"]["replicas"]
    place = f"node_id={replica['node_id']}&filename={replica['log_file_path'].lstrip('/')}"
    log = dashboard(local_ray, f"/api/v0/logs/file?{place}&lines=1000")
    (line,) = [line for line in log.splitlines() if "cached: model=" in line]
    for part in (MODEL, loaded.path, loaded.digest, "miss", f"seconds={loaded.seconds:g}", f"bytes={loaded.size}"):
        assert part in line

    (port,) = [node["MetricsExportPort"] for node in ray.nodes() if node["NodeID"] == replica["node_id"]]
    found: dict[str, str] = {}

    def exported() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        found.update(line.rsplit(" ", 1) for line in lines if line.startswith("ray_cached_model_"))
        return len([name for name in found if 'application="shown"' in name]) == 3

    until(exported, 60)
    tags = [f'model="{MODEL}"', f'digest="{loaded.digest}"', f'replica="{replica["replica_id"]}"']
    values = {name.partition("{")[0]: float(value) for name, value in found.items() if all(tag in name for tag in tags)}
    assert values == {
        "ray_cached_model_load_seconds": loaded.seconds,
        "ray_cached_model_bytes": loaded.size,
        "ray_cached_model_loads_total": 1,
    }
    local_ray.delete("shown")


def another_ray_is_here(local_ray: LocalRay) -> bool:
    """`ray.init` cannot choose this port."""
    logs = local_ray.folder.glob("session_[0-9]*/logs/dashboard_agent.log")
    return any("52365): address already in use" in log.read_text() for log in logs)


def dashboard(local_ray: LocalRay, place: str) -> str:
    request = urllib.request.Request(local_ray.dashboard + place)
    request.add_header("Authorization", f"Bearer {os.environ['RAY_AUTH_TOKEN']}")
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return str(response.read().decode())
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{place}: {error.code} {error.read().decode()}") from error


def test_two_replicas_of_a_real_engine_share_one_download_and_survive_a_kill(
    local_ray: LocalRay, daemon: DaemonProcess, hub: HubStub, llama: dict[str, bytes]
) -> None:
    from serve_integration import build_openai_app
    from tests.demo.local_ray import serving_args

    commit = hub.add_commit("org/llama", llama)
    daemon.start(hub_endpoint=hub.endpoint)
    before = len(local_ray.loaded())
    arguments = serving_args("two", f"hf://org/llama@{commit}", deployment_config={"num_replicas": 2})
    arguments["cached"] = {"socket": str(daemon.socket), "fallback": "error"}
    local_ray.deploy(build_openai_app(arguments), "two")
    assert local_ray.first_chat("two", "two")
    held = leases(daemon)
    assert len(held) == 2
    came = downloads(hub)
    started = local_ray.loaded()[before:]
    assert len({loaded.path for loaded in started}) == 1

    killed = min(held)
    os.kill(killed, signal.SIGKILL)
    until(lambda: len(leases(daemon).keys() - {killed}) == 2, 300)
    until(lambda: running("two"), 300)
    assert local_ray.loaded()[-1].hit
    assert downloads(hub) == came
    assert local_ray.chat("two", "two")
    local_ray.delete("two")
    until(lambda: leases(daemon) == {})


def test_serve_shutdown_leaves_no_lease(
    local_ray: LocalRay, daemon: DaemonProcess, first: str, application: Callable[..., Any]
) -> None:
    from ray import serve

    local_ray.deploy(application(MODEL, num_replicas=2), "ended")
    local_ray.wait("ended")
    assert len(leases(daemon)) == 2
    command = [str(SERVE), "shutdown", "--yes", "--address", local_ray.dashboard]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    until(lambda: leases(daemon) == {})
    collect_everything(daemon)
    assert digests(daemon) == set()
    serve.shutdown()  # This process would still look for the controller.
    local_ray.serve()
