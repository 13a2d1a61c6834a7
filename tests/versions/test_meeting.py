"""Client and daemon of two versions: the release before with this one, either way round, and this one with itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import cached
from cached.client.connection_pool import CancellableCall
from tests.daemon_process import DaemonProcess
from tests.servers import HubStub
from tests.versions.release import Release
from tests.versions.user import User

CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"]}).encode()
FILES = {
    "config.json": CONFIG,
    "model.safetensors": b"weights" * 1000,
    "deep/er/file": b"more",
    "tf_model.h5": b"tf" * 99,
}
MODEL = "hf://org/open"
PAIRS = ("old client, new daemon", "new client, old daemon", "new client, new daemon")


@dataclass
class Pair:
    user: User
    daemon: DaemonProcess
    hub: HubStub
    client: dict[str, str]  # The environment in which Python runs the client's version.

    def cli(self, *arguments: str) -> Any:
        """What the command of the client's version prints with --json; it exits with 0."""
        shown = self.daemon.cli(*arguments, "--json", **self.client)
        assert shown.returncode == 0, shown.stderr
        return json.loads(shown.stdout.splitlines()[-1])


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest, daemon: DaemonProcess, release: Release) -> Iterator[Pair]:
    old = release.environment
    client = old if request.param.startswith("old client") else {}
    if "old daemon" in request.param:
        daemon.environment.update(old)
    with HubStub() as hub:
        hub.add_commit("org/open", FILES)
        hub.add_commit("org/gated", FILES)
        hub.gate("org/gated", "hf_right")
        daemon.start(hub_endpoint=hub.endpoint)
        with User(daemon.socket, client) as user:
            assert user.package.is_relative_to(release.folder) == (client is old)
            yield Pair(user, daemon, hub, client)


def held(answer: dict[str, Any]) -> dict[str, Any]:
    assert "error" not in answer, answer
    return answer


def test_a_miss_reports_progress_and_gives_a_directory_with_everything_in_it(pair: Pair) -> None:
    answer = held(pair.user.acquire(MODEL))
    assert answer["phases"] and not answer["hit"] and not answer["stale"]
    assert {name: Path(answer["path"], name).read_bytes() for name in FILES} == FILES
    assert answer["size"] == sum(len(data) for data in FILES.values())
    assert answer["digest"].startswith("sha256:") and len(answer["revision"]) == 40
    assert "org/open" in answer["source"]


def test_a_hit_asks_the_source_for_nothing(pair: Pair) -> None:
    first = held(pair.user.acquire(MODEL))
    pair.hub.reset()
    again = held(pair.user.acquire(MODEL))
    assert again["hit"] and (again["path"], again["digest"]) == (first["path"], first["digest"])
    assert pair.hub.requests == []


def test_a_lease_keeps_the_model_until_it_is_released(pair: Pair) -> None:
    answer = held(pair.user.acquire(MODEL))
    assert pair.user.ask("damaged") == {"damaged": [False]}
    assert pair.user.call("POST", "/v1/gc", {"free": 1 << 40})["removed"] == []
    assert pair.user.call("POST", "/v1/remove", {"ref": MODEL})["error"] == "InUse"
    assert [lease["digest"] for lease in pair.user.call("GET", "/v1/leases")["leases"]] == [answer["digest"]]
    assert Path(answer["path"], "config.json").read_bytes() == CONFIG
    pair.user.release()
    assert pair.user.call("POST", "/v1/gc", {"free": 1 << 40})["removed"]
    assert not Path(answer["path"]).exists()


def test_a_lease_survives_a_restart_of_the_daemon(pair: Pair) -> None:
    held(pair.user.acquire(MODEL))
    pair.daemon.kill()
    pair.daemon.start()
    assert pair.user.call("POST", "/v1/remove", {"ref": MODEL})["error"] == "InUse"
    assert held(pair.user.acquire(MODEL))["hit"]


ERRORS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("hf://org/absent", {}, "SourceDenied"),
    ("hf://org/gated", {}, "SourceDenied"),
    ("hf://org/open@absent", {}, "RevisionNotFound"),
    ("hf://org/open", {"offline": True}, "NotCached"),
    ("hf://org/open", {"include": ["absent"]}, "ModelNotFound"),
    ("hf://org/open", {"include": ["deep/*"], "require": "llm"}, "ModelIncomplete"),
    ("s3://", {}, "InvalidRequest"),
    ("hf://org/open", {"require": "something"}, "InvalidRequest"),
)


def test_an_error_is_the_class_that_it_is_for_the_daemon(pair: Pair) -> None:
    for uri, options, kind in ERRORS:
        answer = pair.user.acquire(uri, **options)
        assert answer.get("error") == kind, answer
        assert answer["message"] and "\n" not in answer["message"]
    full = pair.user.call("POST", "/v1/pin", {"ref": "hf://org/absent"})
    assert full["error"] == "NotCached"


def test_a_model_that_does_not_fit_is_too_large_for_both(pair: Pair) -> None:
    pair.daemon.stop()
    pair.daemon.start(limit=100)
    assert pair.user.acquire(MODEL)["error"] == "TooLarge"


def test_every_option_of_an_acquire_is_understood(pair: Pair) -> None:
    one = held(pair.user.acquire(MODEL, include=["*.json", "*.h5"], exclude=["tf*"], require=None, abandon=True))
    assert sorted(path.name for path in Path(one["path"]).iterdir()) == ["config.json"]
    lean = held(pair.user.acquire(MODEL, lean=True, require="llm", max_age=0, timeout=60, pin=True, keep=3600))
    assert not Path(lean["path"], "tf_model.h5").exists()
    assert pair.user.call("GET", f"/v1/snapshots/{lean['digest']}")["pinned_until"]
    assert (
        held(pair.user.acquire(MODEL, lean=True, offline=True, revision=lean["revision"]))["digest"] == lean["digest"]
    )


def test_every_command_of_the_one_reads_the_answers_of_the_other(pair: Pair) -> None:
    assert pair.cli("pull", MODEL, "--dry-run")["fits"]
    pulled = pair.cli("pull", MODEL)
    assert set(pulled) == {"path", "digest", "revision", "source", "size", "hit", "stale"}
    assert pair.cli("path", MODEL)["digest"] == pulled["digest"]
    assert [each["digest"] for each in pair.cli("ls")["snapshots"]] == [pulled["digest"]]
    assert len(pair.cli("show", MODEL)["manifest"]) == len(FILES)
    assert pair.cli("status")["snapshots"] == 1
    assert pair.cli("leases")["leases"] == []
    assert pair.cli("pin", MODEL, "--keep", "2h")["pinned"] and not pair.cli("unpin", MODEL)["pinned"]
    assert pair.cli("verify", "--deep")["damaged"] == []
    assert pair.cli("gc", "--dry-run")["removed"] == []
    assert pair.cli("rm", MODEL)["freed"]
    for arguments in (("ls",), ("status",), ("leases",), ("show", MODEL)):
        shown = pair.daemon.cli(*arguments, **pair.client)
        assert shown.returncode in (0, 3) and "fault" not in shown.stderr, shown.stderr


def test_the_client_of_this_version_notices_a_daemon_that_does_not_look_at_what_must_be_understood(
    daemon: DaemonProcess, release: Release
) -> None:
    with HubStub() as hub:
        hub.add_commit("org/open", FILES)
        daemon.environment.update(release.environment)
        daemon.start(hub_endpoint=hub.endpoint)
        with daemon.client() as client:
            body = {"uri": MODEL, "must": {"lean": True}}
            for verb in ("/v1/plan", "/v1/acquire"):
                with pytest.raises(
                    cached.VersionMismatch, match=r"is older than this client .*lean: update the daemon"
                ):
                    if verb == "/v1/plan":
                        client.call("POST", verb, body)
                    else:
                        client._ready(body, None, None, CancellableCall())
