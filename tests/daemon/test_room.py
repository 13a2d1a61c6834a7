"""Eviction that can be explained: what goes, for whom, why, and what would."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cached import AllHeld, Client, NotCached, TooLarge
from tests.daemon_process import DaemonProcess
from tests.servers import HubStub
from tests.waiting import until

Model = Callable[..., Path]


@pytest.fixture
def local(daemon: DaemonProcess, tmp_path: Path) -> DaemonProcess:
    daemon.config(protocols=["file"], file_roots=[str(tmp_path / "models")], high_watermark=1.0, low_watermark=1.0)
    return daemon


@pytest.fixture
def models(make_model: Model) -> list[str]:
    """URIs of models of 40 kB, no two of which share a byte."""
    return [f"file://{make_model(f'm{i}', {'w': 40_000 - i})}" for i in range(5)]


def cached(client: Client, uris: list[str]) -> list[bool]:
    """Which of them are here."""
    listed = {snapshot["source"] for snapshot in client.call("GET", "/v1/snapshots")["snapshots"]}
    return [uri in listed for uri in uris]


def show(daemon: DaemonProcess, ref: str, code: int = 0) -> dict[str, Any]:
    ran = daemon.cli("show", ref, "--json")
    assert ran.returncode == code, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def test_what_went_can_still_be_asked_for_and_says_why_and_for_whom(local: DaemonProcess, models: list[str]) -> None:
    with local.start(limit="100kB").client() as client:
        first = client.pull(models[0])
        client.pull(models[1])
        client.pull(models[2])
    for ref in (models[0], first.digest, first.digest[:20]):
        gone = show(local, ref, 3)
        assert (gone["state"], gone["digest"], gone["source"]) == ("gone", first.digest, models[0])
        assert [event["what"] for event in gone["history"]] == ["ready", "evicted"]
        why = gone["history"][-1]["why"]
        assert "least recently used (last at 20" in why and f"to make room for {models[2]}" in why
    assert why in local.log.read_text()
    assert local.cli("show", "file:///never/heard/of").returncode == 3


def test_a_dry_run_says_what_would_go_and_changes_nothing(local: DaemonProcess, models: list[str]) -> None:
    with local.start(limit="100kB").client() as client:
        client.pull(models[0])
        client.pull(models[1])
        ran = local.cli("pull", "--dry-run", models[2], "--json")
        plan = json.loads(ran.stdout)
        assert (ran.returncode, plan["fits"], plan["reason"], plan["fetch_bytes"]) == (0, True, None, 39_998)
        assert [victim["source"] for victim in plan["evict"]] == [models[0]]
        assert cached(client, models) == [True, True, False, False, False]
        client.pull(models[2])
        assert cached(client, models) == [False, True, True, False, False]


def test_a_dry_run_of_what_is_here_fetches_nothing_and_needs_no_room(local: DaemonProcess, models: list[str]) -> None:
    with local.start(limit="50kB").client() as client:
        client.pull(models[0])
    plan = json.loads(local.cli("pull", "--dry-run", models[0], "--json").stdout)
    assert (plan["fits"], plan["fetch_bytes"], plan["evict"]) == (True, 0, [])


@pytest.mark.parametrize("limit", ["60kB", "30kB"])
def test_a_dry_run_of_what_cannot_fit_says_why_and_exits_5(local: DaemonProcess, models: list[str], limit: str) -> None:
    with local.start(limit=limit if limit == "30kB" else "100kB").client() as client:
        if limit == "60kB":
            held = [client.acquire(models[0]), client.acquire(models[1])]
        ran = local.cli("pull", "--dry-run", models[2])
        assert ran.returncode == 5
        assert ("hold the rest" if limit == "60kB" else "raise `limit`") in ran.stdout
        if limit == "60kB":
            for lease in held:
                lease.release()


def test_what_was_fetched_a_moment_ago_goes_last_and_for_a_fill_only(local: DaemonProcess, models: list[str]) -> None:
    with local.start(limit="100kB").client() as client:
        client.pull(models[0])
        client.pull(models[1])
        local.stop()
        local.start(min_residency="1h", low_watermark=0.2, high_watermark=1.0)
        assert json.loads(local.cli("gc", "--json").stdout)["removed"] == []
        client.pull(models[2])
        assert cached(client, models) == [False, True, True, False, False]
        assert "of those fetched a moment ago" in show(local, models[0], 3)["history"][-1]["why"]


def test_a_budget_bounds_what_a_source_may_take_and_spares_the_others(
    local: DaemonProcess, make_model: Model, tmp_path: Path
) -> None:
    inside = [f"file://{make_model(f'tests/m{i}', {'w': 40_000 + i})}" for i in range(3)]
    outside = f"file://{make_model('production', {'w': 40_003})}"
    prefix = f"file://{tmp_path}/models/tests"
    with local.start(limit="1MB", budgets={prefix: "100kB"}).client() as client:
        client.pull(outside)
        for uri in inside:
            client.pull(uri)
        assert cached(client, [outside, *inside]) == [True, False, True, True]
        assert f"to keep the budget of {prefix}" in show(local, inside[0], 3)["history"][-1]["why"]
        plan = json.loads(local.cli("pull", "--dry-run", inside[0], "--json").stdout)
        assert [victim["source"] for victim in plan["evict"]] == [inside[1]]
        leases = [client.acquire(uri) for uri in inside[1:]]
        with pytest.raises(AllHeld, match="budget"):
            client.pull(inside[0])
        big = make_model("tests/big", {"w": 100_001})
        with pytest.raises(TooLarge, match="budget"):
            client.pull(f"file://{big}")
        for lease in leases:
            lease.release()


def test_two_roots_share_the_models_out_and_each_lies_whole_on_one(
    local: DaemonProcess, models: list[str], tmp_path: Path
) -> None:
    roots = [tmp_path / "one", tmp_path / "two"]
    with local.start(roots=[str(root) for root in roots], limit="90kB").client() as client:
        paths = [Path(client.pull(uri).path) for uri in models[:4]]
        assert sorted(path.parents[1] for path in paths) == [roots[0]] * 2 + [roots[1]] * 2
        assert all(client.pull(uri).hit for uri in models[:4])
        assert cached(client, models) == [True, True, True, True, False]
        status = local.status()
        assert status["used"] == sum(root["used"] for root in status["roots"]) == sum(40_000 - i for i in range(4))
        client.pull(models[4])
        assert sum(cached(client, models)) == 4
    local.kill()
    with local.start().client() as client:
        assert all(client.pull(uri).hit for uri in models[4:])


def test_a_model_goes_where_most_of_its_bytes_are(local: DaemonProcess, make_model: Model, tmp_path: Path) -> None:
    one = make_model("one", {"w": 50_000, "config.json": b"{}"})
    other = make_model("other", {"w": 60_000})
    roots = [str(tmp_path / "a"), str(tmp_path / "b")]
    with local.start(roots=roots, limit="1MB").client() as client:
        first = Path(client.pull(f"file://{one}").path)
        elsewhere = Path(client.pull(f"file://{other}").path)
        client.pull(f"file://{make_model('filler', {'w': 300_000})}")
        second = Path(client.pull(f"file://{one}", include=["w"]).path)
    assert elsewhere.parents[1] != first.parents[1]
    assert second.parents[1] == first.parents[1]


def test_a_wrong_setting_about_roots_stops_the_daemon_with_a_sentence(local: DaemonProcess, tmp_path: Path) -> None:
    for roots in ([str(tmp_path), str(tmp_path / "in")], [str(tmp_path), str(tmp_path)], ["relative"]):
        process = local.spawn(roots=roots)
        assert process.wait(30) == 2
    assert "roots" in local.log.read_text()


def test_a_root_that_cannot_be_used_is_left_out_and_said(
    local: DaemonProcess, models: list[str], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("no directory")
    with local.start(roots=[str(broken), str(tmp_path / "well")]).client() as client:
        assert client.pull(models[0]).path.startswith(str(tmp_path / "well"))
        status = local.status()
        assert not status["healthy"] and str(broken) in status["reason"]
        with pytest.raises(NotCached):
            client.path(models[1])
    until(lambda: "disk.missing" in local.log.read_text())


@pytest.fixture
def overlapping() -> Iterator[tuple[HubStub, bytes]]:
    """Two models that share a large file, and do not both fit on a root of 40 MiB."""
    shard = os.urandom(20 << 20)
    with HubStub() as hub:
        hub.add_commit("org/one", {"a.safetensors": os.urandom(15 << 20), "w.safetensors": shard})
        hub.add_commit("org/two", {"config.json": b"{ }", "a.safetensors": os.urandom(8 << 20), "w.safetensors": shard})
        yield hub, shard


def test_a_large_file_that_another_root_has_is_copied_and_not_fetched(
    daemon: DaemonProcess, overlapping: tuple[HubStub, bytes], tmp_path: Path
) -> None:
    hub, shard = overlapping
    daemon.start(roots=[str(tmp_path / "a"), str(tmp_path / "b")], limit="40MiB", hub_endpoint=hub.endpoint)
    with daemon.client() as client, client.acquire("org/one") as held:
        copied = client.acquire("org/two")
        assert Path(copied.path).parents[1] != Path(held.path).parents[1]
        assert (Path(copied.path) / "w.safetensors").read_bytes() == shard
        compared = 32 * (16 << 10)  # By which org/two shows that it has it.
        assert hub.file_bytes[hashlib.sha256(shard).hexdigest()] == len(shard) + compared, "fetched once"
        assert daemon.status()["fetched_bytes"] == len(shard) + (23 << 20) + 3
        copied.release()


def test_a_copy_that_is_not_what_it_is_called_is_fetched_instead(
    daemon: DaemonProcess, overlapping: tuple[HubStub, bytes], tmp_path: Path
) -> None:
    hub, shard = overlapping
    daemon.config(roots=[str(tmp_path / "a"), str(tmp_path / "b")], limit="40MiB", self_heal=False, scrub_interval=0)
    daemon.start(hub_endpoint=hub.endpoint)
    with daemon.client() as client, client.acquire("org/one") as held:
        damaged = Path(held.path) / "w.safetensors"
        with damaged.open("rb") as file, open(f"/proc/self/fd/{file.fileno()}", "r+b") as writing:
            mapped = mmap.mmap(writing.fileno(), 0)
            mapped[1000] ^= 1  # No event tells of that.
        copied = client.acquire("org/two")
        assert (Path(copied.path) / "w.safetensors").read_bytes() == shard
        copied.release()
