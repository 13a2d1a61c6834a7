"""The command against the real daemon: one model's life, and the promise that tests/cli/answers.py tells the truth."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_process import CACHED, DaemonProcess, clean_environment

from . import answers

MakeModel = Callable[..., Path]


@pytest.fixture
def node(daemon: DaemonProcess, tmp_path: Path) -> DaemonProcess:
    return daemon.start(protocols=["hf", "s3", "gs", "file"], file_roots=[str(tmp_path / "models")], self_heal=False)


@pytest.fixture
def uri(node: DaemonProcess, make_model: MakeModel) -> str:
    """A model that is cached."""
    uri = f"file://{make_model()}"
    assert node.cli("pull", uri).returncode == 0
    return uri


def parsed(ran: subprocess.CompletedProcess[str], code: int = 0) -> Any:
    assert ran.returncode == code, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_pull_gives_a_directory_of_the_models_files(node: DaemonProcess, make_model: MakeModel) -> None:
    model = make_model("a", {"config.json": b"{}", "sub/w.safetensors": 70_000})
    first = parsed(node.cli("pull", f"file://{model}", "--json"))
    assert first["hit"] is False and first["stale"] is False and first["size"] == 70_002
    there = Path(first["path"])
    assert (there / "sub/w.safetensors").read_bytes() == (model / "sub/w.safetensors").read_bytes()
    again = parsed(node.cli("pull", f"file://{model}", "--json"))
    assert again == {**first, "hit": True}
    path = node.cli("path", f"file://{model}")
    assert (path.returncode, path.stdout, path.stderr) == (0, f"{there}\n", "")


def test_patterns_select_and_path_finds_them_again(node: DaemonProcess, make_model: MakeModel) -> None:
    uri = f"file://{make_model()}"
    pulled = node.cli("pull", uri, "--include", "*.json")
    assert os.listdir(pulled.stdout.strip()) == ["config.json"]
    assert node.cli("path", uri, "--include", "*.json").stdout == pulled.stdout
    assert node.cli("path", uri).returncode == 3


def test_answers_have_the_shapes_that_the_other_tests_assume(node: DaemonProcess, uri: str) -> None:
    with node.client() as client, client.acquire(uri):
        listed = parsed(node.cli("ls", "--json"))["snapshots"][0]
        assert listed.keys() == answers.snapshot().keys() and listed["leased"] is True
        shown = parsed(node.cli("show", uri, "--json"))
        assert shown.keys() == answers.shown().keys()
        assert shown["manifest"][0].keys() == answers.shown()["manifest"][0].keys()
        assert shown["history"][0].keys() == answers.shown()["history"][0].keys()
        held = parsed(node.cli("leases", "--json"))["leases"][0]
        assert held.keys() == answers.lease().keys() == shown["holders"][0].keys()
        assert held["pid"] == os.getpid() and held["held"] is True
    assert parsed(node.cli("status", "--json")).keys() >= answers.status().keys()
    swept = parsed(node.cli("gc", "--free", "1B", "--json"))
    assert swept.keys() == {"removed", "freed", "short"} and swept["removed"][0].keys() == {
        "digest",
        "source",
        "size",
        "reason",
    }


@pytest.mark.parametrize("name", ["ls", "show", "status", "leases"])
def test_plain_answers_are_readable_too(name: str, node: DaemonProcess, uri: str) -> None:
    with node.client() as client, client.acquire(uri):
        ran = node.cli(name, *([uri] if name == "show" else []))
    assert ran.returncode == 0 and ran.stderr == "" and "\t" in ran.stdout


def test_a_pin_refuses_removal_until_it_is_taken_off(node: DaemonProcess, uri: str) -> None:
    digest = node.cli("ls").stdout.split("\t")[0]
    assert node.cli("pin", uri, "--keep", "2h").stdout.startswith("Pinned file://")
    refused = node.cli("rm", digest, "--json")
    assert parsed(refused, 1)["error"]["code"] == "in_use" and "pinned" in refused.stderr
    assert parsed(node.cli("unpin", digest[:20], "--json"))["pinned"] is False
    assert "Would remove" in node.cli("rm", uri, "--dry-run").stdout
    assert node.cli("path", uri).returncode == 0
    assert "Removed" in node.cli("rm", uri).stdout
    gone = node.cli("path", uri)
    assert gone.returncode == 3 and gone.stdout == ""


def test_pull_with_keep_pins(node: DaemonProcess, uri: str) -> None:
    assert node.cli("pull", uri, "--keep", "2h").returncode == 0
    snapshot = parsed(node.cli("ls", "--json"))["snapshots"][0]
    assert snapshot["pinned"] is True and snapshot["pinned_until"].endswith("Z")


def test_removal_of_a_leased_model_names_the_holder(node: DaemonProcess, uri: str) -> None:
    with node.client() as client, client.acquire(uri):
        refused = node.cli("rm", uri)
        assert refused.returncode == 1 and str(os.getpid()) in refused.stderr and refused.stdout == ""
        short = node.cli("gc", "--free", "1MB")
        assert short.returncode == 5 and "leased" in short.stderr
    assert node.cli("rm", uri).returncode == 0


def test_pull_holds_nothing_afterwards(node: DaemonProcess, uri: str) -> None:
    assert node.cli("leases").stdout == ""
    assert parsed(node.cli("gc", "--free", "1B", "--json"))["removed"]
    assert node.cli("ls").stdout == ""


def test_verify_finds_damage_and_repair_mends_it(node: DaemonProcess, uri: str) -> None:
    assert node.cli("verify", "--deep").returncode == 0
    path = Path(node.cli("path", uri).stdout.strip(), "model.safetensors")
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"damaged!")
    ran = node.cli("verify", uri, "--repair", "--json")
    found = parsed(ran)["damaged"]
    assert len(found) == 1 and found[0]["repaired"] is True
    assert found[0].keys() == {"digest", "path", "problem", "snapshots", "repaired"}
    assert node.cli("verify", "--deep").returncode == 0


def test_verify_exits_6_while_damage_is_left(node: DaemonProcess, uri: str) -> None:
    path = Path(node.cli("path", uri).stdout.strip(), "model.safetensors")
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"damaged!")
    ran = node.cli("verify")
    assert ran.returncode == 6 and "1 damaged" in ran.stdout and "--repair" in ran.stderr


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (("pull", "ftp://x/y"), 2, "ftp"),
        (("pull", "hf://a/b/c"), 2, "hf://a/b/c"),
        (("pull", "file:///etc"), 2, "file_roots"),
        (("pull", "org/name", "--offline"), 3, "org/name"),
        (("show", "org/name"), 3, "org/name"),
        (("pin", "abcdef0"), 3, "abcdef0"),
    ],
)
def test_bad_requests_keep_their_codes(words: tuple[str, ...], code: int, named: str, node: DaemonProcess) -> None:
    ran = node.cli(*words)
    assert ran.returncode == code and ran.stdout == "" and ran.stderr.count("\n") == 1
    assert named in ran.stderr


def test_a_model_that_never_fits_exits_5(daemon: DaemonProcess, make_model: MakeModel, tmp_path: Path) -> None:
    daemon.start(protocols=["file"], file_roots=[str(tmp_path)], limit="1MB")
    ran = daemon.cli("pull", f"file://{make_model('big', {'config.json': b'{}', 'w': 2_000_000})}", "--json")
    assert parsed(ran, 5)["error"]["code"] == "too_large"


def test_doctor_finds_a_running_daemon_sound(node: DaemonProcess) -> None:
    ran = node.cli("doctor", "--config", str(node.folder / "config.toml"), "--json")
    checks = {check["name"]: check["status"] for check in parsed(ran)}
    assert "fail" not in checks.values() and checks["daemon"] == checks["flock"] == checks["version"] == "ok"


@contextlib.contextmanager
def serving(*flags: str) -> Iterator[subprocess.Popen[str]]:
    """`cached serve` with these flags, once it says that it is ready."""
    process = subprocess.Popen(
        [str(CACHED), "serve", *flags],
        env=clean_environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None and process.stdout is not None
    try:
        while "daemon.ready" not in (line := process.stderr.readline()):
            assert line, "the daemon ended before it was ready"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
        process.stdout.close()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_serve_takes_its_flags_and_ends_cleanly(ending: signal.Signals, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    root, path = tmp_path / "r", tmp_path / "s"
    with serving("--root", str(root), "--socket", str(path), "--listen", f"127.0.0.1:{port}") as process:
        assert (root / "FORMAT").exists() and path.is_socket()
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
        process.send_signal(ending)
        assert process.wait(15) == 0
        assert process.stderr is not None and "Traceback" not in process.stderr.read()
    assert not path.exists()


def test_a_second_daemon_on_the_root_is_refused_in_one_sentence(node: DaemonProcess, tmp_path: Path) -> None:
    ran = node.cli("serve", "--root", str(node.root), "--socket", str(tmp_path / "s"))
    assert ran.returncode == 1 and str(node.root) in ran.stderr and "Traceback" not in ran.stderr
