"""Who asks Google: a caller with the key of a service account, the machine's own account, or nobody."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from cached import SourceDenied
from cached.access import Credentials
from cached.config import Config
from cached.model_ref import ModelRef
from cached.sources.gcs import source as module
from cached.sources.gcs.source import GcsSource
from cached.sources.transport.client import Web
from tests.daemon_process import DaemonProcess
from tests.servers import GcsEmulator
from tests.servers.google import Google

REF = ModelRef.parse("gs://accounts/m")
WEIGHTS = os.urandom(100_000)


@pytest.fixture
def google(gcs: GcsEmulator) -> Iterator[Google]:
    gcs.put("accounts", "m/model.safetensors", WEIGHTS)
    with Google(gcs.endpoint) as found:
        yield found


@pytest.fixture
def source(google: Google, monkeypatch: pytest.MonkeyPatch) -> Iterator[GcsSource]:
    monkeypatch.setattr(module, "_TOKEN_HOSTS", (google.token_uri,))
    web = Web(4)
    found = GcsSource(Config(gs_endpoint=google.endpoint), web)
    yield found
    found.close()
    web.close()


def test_the_key_of_a_callers_service_account_opens_the_bucket(source: GcsSource, google: Google) -> None:
    caller = Credentials({"GOOGLE_APPLICATION_CREDENTIALS_JSON": google.key()})
    listing = source.resolve(REF, caller, 10)
    assert source.open(listing, listing.entries[0], caller).read(0, 100_000) == WEIGHTS
    assert set(google.shown) == {"of-the-key"}
    assert not listing.open


def test_a_callers_key_chooses_no_host_and_no_header(source: GcsSource, google: Google) -> None:
    more = {"universe_domain": "evil.test", "quota_project_id": "p", "trust_boundary": {"encodedLocations": "0x1"}}
    key = json.dumps({**json.loads(google.key()), **more})
    caller = Credentials({"GOOGLE_APPLICATION_CREDENTIALS_JSON": key})
    source.resolve(REF, caller, 10)
    assert set(google.shown) == {"of-the-key"}  # Elsewhere the key itself would have signed, for that universe.


def test_an_anonymous_uri_shows_nobodys_token(source: GcsSource, google: Google) -> None:
    caller = Credentials({"GOOGLE_APPLICATION_CREDENTIALS_JSON": google.key()})
    with pytest.raises(SourceDenied):
        source.resolve(ModelRef.parse("gs://anonymous@accounts/m"), caller, 10)
    assert set(google.shown) == {""}


def test_the_machines_own_account_is_found_by_itself(daemon: DaemonProcess, google: Google) -> None:
    daemon.environment.update(google.environment)
    daemon.start(gs_endpoint=google.endpoint, source_options={"gs": {"token": "google_default"}})
    with daemon.client() as client, client.acquire(REF.uri) as lease:
        assert lease.size == len(WEIGHTS)
    assert set(google.shown) == {"of-the-machine"}


def test_a_callers_file_goes_with_the_request(
    daemon: DaemonProcess, google: Google, tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And may not name another place for tokens than Google's, which is what the daemon says here."""
    path = os.path.join(tmp_path, "key.json")
    with open(path, "w") as file:
        file.write(google.key())
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", path)
    daemon.start(gs_endpoint=google.endpoint)
    with daemon.client() as client, pytest.raises(Exception, match="token_uri"):
        client.acquire(REF.uri)
    assert google.shown == []
