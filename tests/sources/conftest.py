"""Servers for the whole run, and a daemon's environment that knows no accounts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.servers import AzureStub, Azurite, GcsEmulator, HubStub, Moto, RcloneS3
from tests.sources import remotes

ACCOUNTS = ("AWS_", "AZURE_", "HF_", "HUGGING_FACE", "GOOGLE_", "STORAGE_EMULATOR")


@pytest.fixture(scope="session", autouse=True)
def no_accounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither the variables nor the files of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(ACCOUNTS) and "BUNDLE" not in name:
                patch.delenv(name)
        home = tmp_path_factory.mktemp("home")
        patch.setenv("HOME", str(home))
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("NO_GCE_CHECK", "true")
        yield


@pytest.fixture(scope="session")
def moto(no_accounts: None) -> Iterator[Moto]:
    with Moto() as server:
        yield server


@pytest.fixture(scope="session")
def rclone(no_accounts: None) -> Iterator[RcloneS3]:
    with RcloneS3() as server:
        yield server


@pytest.fixture(scope="session")
def untagged(no_accounts: None) -> Iterator[RcloneS3]:
    with RcloneS3(etags=False) as server:
        yield server


@pytest.fixture(scope="session")
def gcs(no_accounts: None) -> Iterator[GcsEmulator]:
    with GcsEmulator() as server:
        yield server


@pytest.fixture(scope="session")
def azure(no_accounts: None) -> Iterator[AzureStub]:
    with AzureStub() as server:
        yield server


@pytest.fixture(scope="session")
def azurite(no_accounts: None) -> Iterator[Azurite]:
    with Azurite() as server:
        yield server


@pytest.fixture(scope="session")
def hub_server(no_accounts: None) -> Iterator[HubStub]:
    with HubStub() as server:
        yield server


@pytest.fixture
def hub(hub_server: HubStub) -> Iterator[HubStub]:
    hub_server.reset()
    yield hub_server
    hub_server.reset()
    hub_server.page_size = 1000


@pytest.fixture(scope="session")
def made(no_accounts: None) -> Iterator[dict[str, remotes.Remote]]:
    """Remotes by name, with their connections, for the whole run."""
    known: dict[str, remotes.Remote] = {}
    yield known
    for remote in known.values():
        remote.close()


@pytest.fixture
def remote(
    request: pytest.FixtureRequest, made: dict[str, remotes.Remote], tmp_path_factory: pytest.TempPathFactory
) -> remotes.Remote:
    kind: str = request.param
    if kind not in made:
        made[kind] = _make(kind, request, tmp_path_factory)
    return made[kind]


def _make(kind: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> remotes.Remote:
    factories: dict[str, Callable[[], remotes.Remote]] = {
        "moto": lambda: remotes.s3("moto", request.getfixturevalue("moto")),
        "moto-versioned": lambda: remotes.s3("moto-versioned", request.getfixturevalue("moto"), versioned=True),
        "rclone": lambda: remotes.s3("rclone", request.getfixturevalue("rclone")),
        "rclone-untagged": lambda: remotes.s3("rclone-untagged", request.getfixturevalue("untagged")),
        "gcs": lambda: remotes.gcs(request.getfixturevalue("gcs")),
        "azure": lambda: remotes.azure(request.getfixturevalue("azure")),
        "azurite": lambda: remotes.azure(request.getfixturevalue("azurite")),
        "hub": lambda: remotes.hub(request.getfixturevalue("hub")),
        "file": lambda: remotes.folder(tmp_path_factory.mktemp("models")),
        "memory": remotes.memory,
    }
    return factories[kind]()
