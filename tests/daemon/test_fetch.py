"""The daemon against real remotes: what is fetched, how often, and what happens when either side goes away."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cached import (
    CachedError,
    Client,
    DigestMismatch,
    ModelNotFound,
    Progress,
    RevisionNotFound,
    SourceDenied,
    SourceUnavailable,
)
from tests.daemon_process import DaemonProcess, clean_environment
from tests.servers import CountingProxy, HubStub, RcloneS3
from tests.waiting import until

MIB = 1 << 20
SHARD = os.urandom(40 * MIB + 123)


@pytest.fixture
def hub() -> Iterator[HubStub]:
    with HubStub() as server:
        yield server


@pytest.fixture(scope="module")
def s3() -> Iterator[RcloneS3]:
    with RcloneS3() as server:
        server.put("bucket", "llama/config.json", b"{}")
        server.put("bucket", "llama/model.safetensors", SHARD)
        yield server


@pytest.fixture
def hub_daemon(daemon: DaemonProcess, hub: HubStub) -> DaemonProcess:
    return daemon.start(hub_endpoint=hub.endpoint, check_timeout="2s", resolve_timeout="5s", retries=2)


@pytest.fixture
def s3_daemon(daemon: DaemonProcess, s3: RcloneS3, proxy: CountingProxy) -> DaemonProcess:
    daemon.environment.update(s3.credentials)
    return daemon.start(s3_endpoint=proxy.endpoint, s3_region="us-east-1", check_timeout="2s", retries=2)


def fetching(seen: threading.Event, size: int = 1) -> Callable[[Progress], None]:
    """A progress callback that tells when that many bytes have come."""

    def callback(progress: Progress) -> None:
        if progress.phase == "fetching" and progress.done_bytes - progress.cached_bytes >= size:
            seen.set()

    return callback


def test_many_processes_that_want_one_cold_model_fetch_each_byte_once(
    s3_daemon: DaemonProcess, proxy: CountingProxy
) -> None:
    code = "import cached, sys; sys.stdin.readline(); print(cached.Client().acquire('s3://bucket/llama').path)"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(CACHED_SOCKET=str(s3_daemon.socket)),
        )
        for _ in range(32)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    paths = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert len(paths) == 1
    assert (Path(paths.pop()) / "model.safetensors").read_bytes() == SHARD
    assert proxy.bytes_down < len(SHARD) + 200_000, "headers and listings apart, each byte comes once"
    assert s3_daemon.status()["fetched_bytes"] == len(SHARD) + 2


def test_the_same_file_from_the_hub_and_from_s3_is_one_inode_and_one_download(
    s3_daemon: DaemonProcess, hub: HubStub, proxy: CountingProxy
) -> None:
    hub.add_commit("org/llama", {"config.json": b'{"a": 1}', "model.safetensors": SHARD})
    s3_daemon.stop()
    s3_daemon.start(hub_endpoint=hub.endpoint)
    with s3_daemon.client() as client:
        bucket = client.pull("s3://bucket/llama")
        mirrored = client.pull("org/llama")
        assert bucket.digest != mirrored.digest
        assert _inode(bucket.path) == _inode(mirrored.path)
        assert hub.file_bytes[hashlib.sha256(SHARD).hexdigest()] == 32 * (16 << 10), "compared, not fetched"
        assert client.call("GET", "/v1/status")["used"] == len(SHARD) + 2 + 8


def _inode(path: str) -> int:
    return os.stat(f"{path}/model.safetensors").st_ino


def test_two_revisions_share_the_files_that_did_not_change(hub_daemon: DaemonProcess, hub: HubStub) -> None:
    old = hub.add_commit("org/llama", {"config.json": b"{}", "model.safetensors": SHARD})
    new = hub.add_commit("org/llama", {"config.json": b'{"new": 1}'})
    with hub_daemon.client() as client:
        first, second = client.pull(f"org/llama@{old}"), client.pull("org/llama")
        assert (first.revision, second.revision) == (old, new)
        assert _inode(first.path) == _inode(second.path)
        assert hub.file_bytes[hashlib.sha256(SHARD).hexdigest()] == len(SHARD)


def test_a_commit_that_a_branch_resolved_to_is_a_hit_for_ever_without_the_network(
    hub_daemon: DaemonProcess, hub: HubStub
) -> None:
    commit = hub.add_commit("org/llama", {"config.json": b"{}"})
    with hub_daemon.client() as client:
        client.pull("org/llama@main")
        hub.cut()
        ready = client.pull(f"org/llama@{commit}", max_age=0)
        assert (ready.hit, ready.stale) == (True, False)


def test_with_the_source_down_a_moving_name_is_served_stale_and_a_new_one_is_unavailable(
    hub_daemon: DaemonProcess, hub: HubStub
) -> None:
    hub.add_commit("org/llama", {"config.json": b"{}"})
    hub.add_commit("org/other", {"config.json": b"{}"})
    with hub_daemon.client() as client:
        client.pull("org/llama")
        hub.cut()
        assert not client.pull("org/llama").stale, "younger than max_age: nobody asks the source"
        ready = client.pull("org/llama", max_age=0)
        assert (ready.hit, ready.stale) == (True, True)
        with pytest.raises(SourceUnavailable, match="org/other"):
            client.pull("org/other")
        hub.restore()
        assert not client.pull("org/llama", max_age=0).stale


def test_killed_in_the_middle_of_a_fill_it_resumes_and_shows_nothing_partial(
    s3_daemon: DaemonProcess, s3: RcloneS3, proxy: CountingProxy
) -> None:
    big = os.urandom(96 * MIB)
    s3.put("bucket", "big/config.json", b"{}")
    s3.put("bucket", "big/model.safetensors", big)
    s3_daemon.stop()
    s3_daemon.start(connections=1)
    seen = threading.Event()
    survivor: list[str] = []

    def wait() -> None:
        survivor.append(s3_daemon.client().pull("s3://bucket/big", progress=fetching(seen, 20 * MIB)).path)

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert seen.wait(60)
    s3_daemon.kill()
    assert s3_daemon.files("snapshots") == []
    proxy.reset()
    s3_daemon.start()
    waiter.join(120)
    with s3_daemon.client() as client:
        path = client.pull("s3://bucket/big").path
    assert survivor == [path], "the caller's request goes on with the next daemon"
    assert (Path(path) / "model.safetensors").read_bytes() == big
    assert proxy.bytes_down < len(big) - 15 * MIB, "pieces that had landed are not fetched again"
    s3_daemon.stop()
    s3_daemon.start()
    assert s3_daemon.files("ingest", "trash", "quarantine") == []
    assert len(s3_daemon.files("blobs")) == 3, "two blobs, and the checksums of the large one"
    assert s3_daemon.status()["reserved"] == 0


def test_a_caller_that_dies_spares_the_others(hub_daemon: DaemonProcess, hub: HubStub) -> None:
    hub.add_commit("org/llama", {"config.json": b"{}", "model.safetensors": SHARD})
    hub.pause()
    code = "import cached; print('asking', flush=True); cached.Client().acquire('org/llama')"
    doomed = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(CACHED_SOCKET=str(hub_daemon.socket)),
    )
    assert doomed.stdout is not None
    doomed.stdout.readline()
    _until_fills(hub_daemon, 1)
    results: list[str] = []
    other = threading.Thread(target=lambda: results.append(hub_daemon.client().pull("org/llama").path))
    other.start()
    doomed.kill()
    doomed.wait()
    doomed.stdout.close()
    hub.resume()
    other.join(60)
    assert (Path(results[0]) / "model.safetensors").read_bytes() == SHARD


def _until_fills(daemon: DaemonProcess, count: int) -> None:
    """Wait for the daemon to have that many fills; bounded by the test's time-out."""
    while len(daemon.status()["fills"]) != count:
        pass


def test_a_fill_goes_on_when_its_last_caller_leaves_unless_it_said_to_abandon(
    hub_daemon: DaemonProcess, hub: HubStub
) -> None:
    hub.add_commit("org/kept", {"config.json": b"{}"})
    hub.add_commit("org/left", {"config.json": b"{}"})
    hub.pause()
    for repo, abandon in (("org/kept", False), ("org/left", True)):
        with pytest.raises(CachedError, match="not ready in time"):
            Client(hub_daemon.socket).pull(repo, abandon=abandon, timeout=0.3)
    # Until the daemon has noticed that both have left.
    until(lambda: [(fill["ref"], fill["waiters"]) for fill in hub_daemon.status()["fills"]] == [("hf://org/kept", 0)])
    hub.resume()
    _until_fills(hub_daemon, 0)
    with hub_daemon.client() as client:
        assert client.path("org/kept").hit
        with pytest.raises(CachedError, match="not cached"):
            client.path("org/left")


def test_every_waiter_gets_the_error(hub_daemon: DaemonProcess, hub: HubStub) -> None:
    hub.add_commit("org/llama", {"config.json": b"{}"})
    hub.hide("org/llama", "somebody-else")
    errors: list[str] = []

    def ask() -> None:
        try:
            hub_daemon.client().acquire("org/llama")
        except CachedError as error:
            errors.append(error.code)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 8
    assert len(set(errors)) == 1


def test_a_gated_model_needs_the_callers_own_token(
    hub_daemon: DaemonProcess, hub: HubStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_commit("org/gated", {"config.json": b"{}", "model.safetensors": SHARD})
    hub.gate("org/gated", "hf_canarytoken")
    with hub_daemon.client() as client:
        with pytest.raises(SourceDenied, match="org/gated"):
            client.pull("org/gated")
        monkeypatch.setenv("HF_TOKEN", "hf_canarytoken")
        assert not client.pull("org/gated").hit
    hub_daemon.stop()
    everything = b"".join(p.read_bytes() for p in hub_daemon.root.rglob("*") if p.is_file() and p.stat().st_size < MIB)
    assert b"canarytoken" not in everything + hub_daemon.log.read_bytes()


@pytest.mark.parametrize(
    ("uri", "error", "sentence"),
    [
        ("org/absent", CachedError, "org/absent"),
        ("org/llama@nosuch", RevisionNotFound, "nosuch"),
        ("s3://bucket/empty", ModelNotFound, "no model files at s3://bucket/empty"),
        ("s3://nosuchbucket/x", SourceDenied, "s3://nosuchbucket/x does not exist, or you may not read it"),
    ],
)
def test_what_is_not_there_is_one_clear_sentence(
    s3_daemon: DaemonProcess, hub: HubStub, uri: str, error: type[CachedError], sentence: str
) -> None:
    hub.add_commit("org/llama", {"config.json": b"{}"})
    s3_daemon.stop()
    s3_daemon.start(hub_endpoint=hub.endpoint)
    with s3_daemon.client() as client, pytest.raises(error, match=sentence) as raised:
        client.pull(uri)
    assert "\n" not in raised.value.message
    assert s3_daemon.files() == []


def test_wrong_bytes_of_the_right_size_are_never_published(hub_daemon: DaemonProcess, hub: HubStub) -> None:
    commit = hub.add_commit("org/llama", {"config.json": b"{}", "model.safetensors": SHARD})
    hub.overwritten["org/llama", commit, "model.safetensors"] = bytes(len(SHARD))
    with hub_daemon.client() as client:
        with pytest.raises(DigestMismatch, match=r"model\.safetensors"):
            client.pull("org/llama")
        assert hub_daemon.files("snapshots") == []
        hub.overwritten.clear()
        ready = client.pull("org/llama")
        assert (Path(ready.path) / "model.safetensors").read_bytes() == SHARD


def test_an_origin_that_fails_for_a_moment_is_asked_again(hub_daemon: DaemonProcess, hub: HubStub) -> None:
    hub.add_commit("org/llama", {"config.json": b"{}", "model.safetensors": SHARD})
    hub.fail(503, times=1, part="model.safetensors")
    with hub_daemon.client() as client:
        ready = client.pull("org/llama")
        assert (Path(ready.path) / "model.safetensors").read_bytes() == SHARD


def test_an_object_that_changes_during_the_fill_never_becomes_a_mixed_file(
    s3_daemon: DaemonProcess, s3: RcloneS3, proxy: CountingProxy
) -> None:
    one, two = os.urandom(80 * MIB), os.urandom(80 * MIB)
    s3.put("bucket", "moving/model.safetensors", one)
    s3_daemon.stop()
    s3_daemon.start(connections=1)
    seen = threading.Event()
    results: list[str] = []

    def pull() -> None:
        results.append(s3_daemon.client().pull("s3://bucket/moving", progress=fetching(seen)).path)

    puller = threading.Thread(target=pull)
    puller.start()
    assert seen.wait(60)
    s3.put("bucket", "moving/model.safetensors", two)
    puller.join(120)
    assert (Path(results[0]) / "model.safetensors").read_bytes() in (one, two)
