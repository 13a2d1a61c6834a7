"""The stub of the Hub is held against the real client, because the other tests build on the stub."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download

from cached.access import Credentials
from cached.config import Config
from cached.model_ref import ModelRef
from cached.sources.hub.source import HubSource
from cached.sources.transport.client import Web
from tests.servers import HubStub
from tests.servers.process import BIN

MODEL = {"config.json": b"{}", "model.safetensors": os.urandom(700_000), "sub/tokenizer.json": b"[]"}
TOKEN = "hf_canary_0b5a"


@pytest.fixture
def repo(hub: HubStub) -> str:
    hub.repositories.pop("org/real", None)
    hub.add_commit("org/real", MODEL)
    return "org/real"


def files_below(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def plain_environment(hub: HubStub, home: Path) -> dict[str, str]:
    extra = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "HF_TOKEN": TOKEN}
    return {**os.environ, **extra}


def test_stub_is_accepted_by_hf_download(hub: HubStub, repo: str, tmp_path: Path) -> None:
    command = [str(BIN / "hf"), "download", repo, "--local-dir", str(tmp_path / "model")]
    done = subprocess.run(command, env=plain_environment(hub, tmp_path / "home"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert files_below(tmp_path / "model") == MODEL


@pytest.mark.parametrize("revision", ["main", "v1.0", "commit"])
def test_stub_is_accepted_by_snapshot_download(hub: HubStub, repo: str, tmp_path: Path, revision: str) -> None:
    commit = hub.repositories[repo].refs["main"]
    hub.tag(repo, "v1.0", commit)
    named = commit if revision == "commit" else revision
    script = f"import huggingface_hub as h; print(h.snapshot_download({repo!r}, revision={named!r}))"
    done = subprocess.run(
        [str(BIN / "python"), "-c", script],
        env=plain_environment(hub, tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder.name == commit and files_below(folder) == MODEL


def test_source_and_snapshot_download_give_the_same_files(hub: HubStub, repo: str, tmp_path: Path) -> None:
    theirs = snapshot_download(repo, endpoint=hub.endpoint, cache_dir=tmp_path, token=False)
    nobody, web = Credentials(), Web(4)
    source = HubSource(Config(hub_endpoint=hub.endpoint), web)
    listing = source.resolve(ModelRef.parse(repo), nobody, 5)
    ours = {entry.path: source.open(listing, entry, nobody).read(0, entry.size) for entry in listing.entries}
    web.close()
    assert ours == files_below(Path(theirs))
