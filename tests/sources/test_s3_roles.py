"""The role of the node or the container: whose keys nobody configures, and that change while a model is fetched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from cached import SourceDenied
from cached.access import Credentials
from cached.config import Config
from cached.daemon.http.acquire_request import Acquire
from cached.model_ref import ModelRef
from cached.sources.s3.source import S3Source
from cached.sources.source import FastReader
from tests.daemon_process import DaemonProcess
from tests.servers import Moto
from tests.servers.roles import Role

NOBODY = Credentials()
REF = ModelRef.parse("s3://roles/m")
WEIGHTS = os.urandom(300_000)


@pytest.fixture
def role(moto: Moto) -> Iterator[Role]:
    moto.put("roles", "m/config.json", b"{}")
    moto.put("roles", "m/model.safetensors", WEIGHTS)
    with Role(moto.endpoint) as found:
        yield found


@pytest.fixture(params=["instance", "container"])
def source(request: pytest.FixtureRequest, role: Role, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Source]:
    for name, value in role.environment(request.param).items():
        monkeypatch.setenv(name, value)
    found = S3Source(Config(s3_endpoint=role.endpoint))
    yield found
    found.close()


def test_the_keys_of_a_role_are_found_by_themselves(source: S3Source, role: Role) -> None:
    listing = source.resolve(REF, NOBODY, 10)
    assert {entry.path for entry in listing.entries} == {"config.json", "model.safetensors"}
    assert set(role.shown) == {role.key}


@pytest.mark.parametrize("way", ["read", "stream"])
def test_keys_that_expire_in_the_middle_of_a_file_are_fetched_again(source: S3Source, role: Role, way: str) -> None:
    entry = next(entry for entry in source.resolve(REF, NOBODY, 10).entries if entry.path.startswith("model"))
    reader = source.open(source.resolve(REF, NOBODY, 10), entry, NOBODY)
    assert isinstance(reader, FastReader)
    got = bytearray()
    for at in range(0, 300_000, 100_000):
        if way == "read" or not reader.stream(at, 100_000, got.extend):
            got += reader.read(at, 100_000)
        role.rotate()
    assert got == WEIGHTS
    if not reader.stream(0, 1, got.extend):
        assert reader.read(0, 1) == WEIGHTS[:1]
    role.shown.clear()
    assert reader.stream(0, 1, got.extend)  # The fast lane knows the new ones, too.
    assert role.shown == [role.key]


def test_the_fast_lane_takes_new_keys_as_soon_as_the_old_ones_are_refused(
    role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    role.lifetime = timedelta(minutes=5)  # So short that botocore fetches them for every request that it makes itself.
    for name, value in role.environment("container").items():
        monkeypatch.setenv(name, value)
    source = S3Source(Config(s3_endpoint=role.endpoint))
    listing = source.resolve(REF, NOBODY, 10)
    reader = source.open(listing, listing.entries[0], NOBODY)
    assert isinstance(reader, FastReader)
    role.rotate()
    assert not reader.stream(0, 2, lambda _: None)
    assert reader.stream(0, 2, lambda _: None)
    source.close()


def test_keys_that_have_expired_before_a_model_is_asked_for_are_fetched_again(source: S3Source, role: Role) -> None:
    source.resolve(REF, NOBODY, 10)
    role.rotate()
    assert source.resolve(REF, NOBODY, 10).size == 300_002
    source.prove(*_first(source), NOBODY, 10)


def _first(source: S3Source) -> Any:
    listing = source.resolve(REF, NOBODY, 10)
    return listing, listing.entries[0]


def test_a_callers_own_keys_are_not_replaced_by_the_roles(source: S3Source, role: Role) -> None:
    with pytest.raises(SourceDenied):
        source.resolve(REF, Credentials({"AWS_ACCESS_KEY_ID": "AKIAMINE", "AWS_SECRET_ACCESS_KEY": "x"}), 10)
    assert set(role.shown) == {"AKIAMINE"}
    assert role.asked == []


def test_half_of_a_callers_keys_is_refused_and_not_made_up_for(source: S3Source, role: Role) -> None:
    with pytest.raises(SourceDenied):
        source.resolve(REF, Credentials({"AWS_ACCESS_KEY_ID": "AKIAMINE"}), 10)
    assert (role.asked, set(role.shown) <= {"AKIAMINE"}) == ([], True)


ELSEWHERE = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:9/keys",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/keys",
    "AWS_PROFILE": "mine",
    "AWS_CONFIG_FILE": "/tmp/mine",
    "AWS_SHARED_CREDENTIALS_FILE": "/tmp/mine",
    "AWS_ROLE_ARN": "arn:aws:iam::1:role/mine",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "/tmp/mine",
    "AZURE_AUTHORITY_HOST": "http://127.0.0.1:9",
    "STORAGE_EMULATOR_HOST": "http://127.0.0.1:9",
    "GCE_METADATA_HOST": "127.0.0.1:9",
    "HF_ENDPOINT": "http://127.0.0.1:9",
}


def test_a_caller_cannot_say_where_the_daemon_asks_for_its_keys_or_shows_them(source: S3Source, role: Role) -> None:
    asked = Acquire.parse({"uri": "s3://roles/m", "credentials": ELSEWHERE})
    assert asked.credentials == NOBODY
    assert source.resolve(REF, Credentials(ELSEWHERE), 10).size == 300_002
    assert set(role.shown) == {role.key}


def test_a_callers_region_does_not_name_a_host(role: Role) -> None:
    source = S3Source(Config())
    for region in ("x.evil.example/", "evil.example#", "a b"):
        keys = Credentials({"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": region})
        with pytest.raises(Exception, match="region"):
            source.resolve(REF, keys, 10)
    source.close()


@pytest.mark.parametrize("kind", ["instance", "container"])
def test_a_fill_outlives_the_keys_with_which_it_began(daemon: DaemonProcess, role: Role, moto: Moto, kind: str) -> None:
    moto.put("roles", "large/model.safetensors", os.urandom(70 << 20))
    daemon.environment.update(role.environment(kind))
    daemon.start(s3_endpoint=role.endpoint, workers=1)
    role.rotate_after(2)
    with daemon.client() as client, client.acquire("s3://roles/large") as lease:
        assert lease.size == 70 << 20
    assert len({key for key in role.shown if key}) == 2
