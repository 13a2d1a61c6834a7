"""Where a place is: the endpoint that is really asked is part of it, and what was plain stays as it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cached.access import Credentials
from cached.config import Config
from cached.errors import SourceChanged, SourceDenied
from cached.model import Entry, Listing
from cached.model_ref import ModelRef
from cached.sources.azure.source import AzureSource
from cached.sources.gcs.source import GcsSource
from cached.sources.s3.source import S3Source
from cached.sources.transport.client import Web
from tests.servers import AzureStub, GcsEmulator, Moto
from tests.servers.azure import ACCOUNT, KEY

KEYS = {"AWS_ACCESS_KEY_ID": "AKIAB", "AWS_SECRET_ACCESS_KEY": "secret"}
ENTRY = Entry("w.bin", 5, "00 2024-01-01T00:00:00+00:00")
ELSEWHERE = "http://ceph.example:7480/base/"
CEPH = "ceph.example:7480/base"

AWS_FILE = f"""
[default]
region = us-west-2
[profile ceph]
endpoint_url = {ELSEWHERE}
[profile services]
services = own
[services own]
s3 =
  endpoint_url = {ELSEWHERE}
[profile odd]
endpoint_url = https://s3.us-gov-west-1.amazonaws.com
"""


def reaches(source: S3Source, word: str, variables: Mapping[str, str]) -> bool:
    """Whether that is where these credentials lead to."""
    listing = Listing(ModelRef.parse("s3://bucket/m"), f"s3://{word}/bucket/m", "r", (ENTRY,))
    try:
        source.open(listing, ENTRY, Credentials(variables))
    except SourceChanged:
        return False
    return True


@pytest.mark.parametrize(
    ("settings", "environment", "caller", "word"),
    [
        # As they were: what a root holds is known by these.
        ({}, {}, {}, "amazonaws.com"),
        ({"s3_region": "eu-central-1"}, {}, {}, "amazonaws.com"),
        ({}, {"AWS_DEFAULT_REGION": "ap-southeast-2"}, {}, "amazonaws.com"),
        ({}, {}, {"AWS_REGION": "me-central-1"}, "amazonaws.com"),
        ({}, {}, {"AWS_DEFAULT_REGION": "us-east-1"}, "amazonaws.com"),
        ({}, {"AWS_USE_DUALSTACK_ENDPOINT": "true"}, {}, "amazonaws.com"),
        ({}, {"AWS_USE_FIPS_ENDPOINT": "true"}, {}, "amazonaws.com"),
        ({"s3_endpoint": ELSEWHERE}, {}, {"AWS_REGION": "cn-north-1"}, CEPH),
        ({"s3_endpoint": "https://s3.us-west-2.amazonaws.com"}, {}, {}, "s3.us-west-2.amazonaws.com"),
        ({}, {"AWS_ENDPOINT_URL": ELSEWHERE}, {}, CEPH),
        ({}, {"AWS_ENDPOINT_URL_S3": ELSEWHERE, "AWS_ENDPOINT_URL": "http://other.example"}, {}, CEPH),
        # What was taken for the commercial partition, and is not.
        ({"s3_region": "cn-north-1"}, {}, {}, "aws-cn"),
        ({"s3_region": "us-gov-west-1"}, {}, {}, "aws-us-gov"),
        ({}, {}, {"AWS_REGION": "cn-northwest-1"}, "aws-cn"),
        ({}, {}, {"AWS_REGION": "us-gov-east-1"}, "aws-us-gov"),
        ({}, {}, {"AWS_REGION": "US-GOV-WEST-1"}, "aws-us-gov"),
        ({}, {}, {"AWS_REGION": "fips-us-gov-west-1"}, "aws-us-gov"),
        ({}, {}, {"AWS_DEFAULT_REGION": "us-iso-east-1"}, "aws-iso"),
        ({}, {"AWS_DEFAULT_REGION": "us-isob-east-1"}, {}, "aws-iso-b"),
        ({"s3_region": "eusc-de-east-1"}, {}, {"AWS_REGION": "us-east-1"}, "aws-eusc"),
        ({"s3_profile": "ceph"}, {}, {}, CEPH),
        ({"s3_profile": "services"}, {}, {}, CEPH),
        ({"s3_profile": "odd"}, {}, {}, "s3.us-gov-west-1.amazonaws.com"),
        ({"source_options": {"s3": {"endpoint_url": ELSEWHERE}}}, {}, {}, CEPH),
        ({"source_options": {"s3": {"client_kwargs": {"endpoint_url": ELSEWHERE}}}}, {}, {}, CEPH),
        ({"source_options": {"s3": {"endpoint_url": ELSEWHERE}}, "s3_endpoint": "http://other.example"}, {}, {}, CEPH),
        ({"source_options": {"s3": {"client_kwargs": {"region_name": "cn-north-1"}}}}, {}, {}, "aws-cn"),
    ],
)
def test_in_s3_the_endpoint_that_is_asked_is_part_of_the_place(
    settings: dict[str, Any],
    environment: dict[str, str],
    caller: dict[str, str],
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "config").write_text(AWS_FILE)
    for name, value in {"AWS_CONFIG_FILE": str(tmp_path / "config"), **environment}.items():
        monkeypatch.setenv(name, value)
    own = {"AWS_ACCESS_KEY_ID": "AKIAOWN", "AWS_SECRET_ACCESS_KEY": "secret"} if "s3_profile" in settings else {}
    for name, value in own.items():  # The daemon's, whose profile it is.
        monkeypatch.setenv(name, value)
    source, variables = S3Source(Config(**settings)), {**({} if own else KEYS), **caller}
    words = {"amazonaws.com", "aws-cn", "aws-us-gov", "other.example", CEPH, word}
    assert {found for found in words if reaches(source, found, variables)} == {word}
    source.close()


def test_a_listing_of_another_place_is_asked_for_again_and_never_read_there(moto: Moto) -> None:
    moto.put("places", "m/w.bin", b"bytes")
    source, caller = S3Source(Config(s3_endpoint=moto.endpoint)), Credentials(moto.credentials)
    listing = source.resolve(ModelRef.parse("s3://places/m"), caller, 10)
    assert listing.place == f"s3://{moto.endpoint[7:]}/places/m"
    other = Listing(listing.ref, "s3://amazonaws.com/places/m", listing.revision, listing.entries)
    for ask in (source.open, lambda *asked: source.prove(*asked, 10)):
        with pytest.raises(SourceChanged, match="region or endpoint"):
            ask(other, listing.entries[0], caller)
    source.close()


def test_in_gcs_an_endpoint_of_the_source_options_is_part_of_the_place(gcs: GcsEmulator) -> None:
    gcs.put("places", "m/w.bin", b"bytes")
    web, ref = Web(4), ModelRef.parse("gs://places/m")
    options = {"gs": {"endpoint_url": gcs.endpoint, "token": "anon"}}
    for config in (Config(source_options=options), Config(gs_endpoint=gcs.endpoint)):
        source = GcsSource(config, web)
        listing = source.resolve(ref, Credentials(), 10)
        assert listing.place == f"gs://{gcs.endpoint[7:]}/places/m"
        source.prove(listing, listing.entries[0], Credentials(), 10)
        source.close()
    web.close()


def test_in_gcs_googles_own_endpoint_keeps_its_name() -> None:
    web, ref = Web(4), ModelRef.parse("gs://anonymous@places/m")
    source, entry = GcsSource(Config(), web), Entry("w.bin", 5, "1")
    source.open(Listing(ref, "gs://storage.googleapis.com/places/m", "r", (entry,)), entry, Credentials())
    source.close()
    web.close()


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"AZURE_STORAGE_ACCOUNT_NAME": "another"},
        {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=another;AccountKey=a2V5;BlobEndpoint=http://127.0.0.1:9/"},
    ],
    ids=lambda variables: next(iter(variables)),
)
@pytest.mark.parametrize("whose", ["the caller's", "the daemon's"])
def test_in_azure_the_account_of_the_uri_is_the_one_that_is_asked(
    azure: AzureStub, elsewhere: dict[str, str], whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure.put("places", "m/w.bin", b"bytes")
    if whose == "the daemon's":
        for name, value in elsewhere.items():
            monkeypatch.setenv(name, value)
    source = AzureSource(Config(azure_endpoint=azure.endpoint), "abfss")
    ref = ModelRef.parse(f"abfss://places@{ACCOUNT}/m")
    listing = source.resolve(ref, Credentials({"AZURE_STORAGE_ACCOUNT_KEY": KEY}), 10)
    assert listing.place == f"azure://{azure.endpoint[7:]}/{ACCOUNT}/places/m"
    theirs = Credentials({**elsewhere, "AZURE_STORAGE_ACCOUNT_KEY": KEY} if whose == "the caller's" else {})
    for ask in (lambda: source.resolve(ref, theirs, 10), lambda: source.prove(listing, listing.entries[0], theirs, 10)):
        with pytest.raises(SourceDenied):
            ask()
    source.close()
