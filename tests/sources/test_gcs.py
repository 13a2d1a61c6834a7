"""What only Google Cloud Storage has: generations, and keys that name where tokens come from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import pytest

from cached.access import Credentials
from cached.config import Config
from cached.errors import InvalidRequest, SourceChanged, SourceDenied
from cached.model import Checksum
from cached.model_ref import ModelRef
from cached.sources.gcs.source import GcsSource
from cached.sources.transport.client import Web
from tests.servers import GcsEmulator

NOBODY = Credentials()
REF = ModelRef.parse("gs://generations/m")


@pytest.fixture
def source(gcs: GcsEmulator) -> Iterator[GcsSource]:
    web = Web(4)
    yield GcsSource(Config(gs_endpoint=gcs.endpoint), web)
    web.close()


def test_checksums_come_with_the_listing_in_hex(gcs: GcsEmulator, source: GcsSource) -> None:
    gcs.put("generations", "m/w.bin", b"weights")
    (entry,) = source.resolve(REF, NOBODY, 5).entries
    assert Checksum("md5", hashlib.md5(b"weights").hexdigest()) in entry.checksums
    assert {(check.algorithm, len(check.value)) for check in entry.checksums} == {("md5", 32), ("crc32c", 8)}
    assert entry.version.isdigit()


def test_server_that_does_not_name_the_generation_is_checked_again_at_the_end(
    gcs: GcsEmulator, source: GcsSource
) -> None:
    gcs.put("generations", "m/w.bin", b"weights")
    listing = source.resolve(REF, NOBODY, 5)
    reader = source.open(listing, listing.entries[0], NOBODY)
    assert reader.read(0, 7) == b"weights"
    reader.recheck()
    gcs.put("generations", "m/w.bin", b"WEIGHTS")
    reader.read(0, 7)
    with pytest.raises(SourceChanged, match="generation"):
        reader.recheck()


def test_key_of_a_caller_may_not_choose_who_is_asked_for_tokens(source: GcsSource) -> None:
    key = {"type": "service_account", "token_uri": "http://169.254.169.254/", "private_key": "SECRET"}
    with pytest.raises(InvalidRequest, match="token_uri") as caught:
        source.resolve(REF, Credentials({"GOOGLE_APPLICATION_CREDENTIALS_JSON": json.dumps(key)}), 5)
    assert "SECRET" not in caught.value.message


@pytest.mark.parametrize("text", ["{", "[]", '{"type": "external_account"}', '{"type": "nonsense"}'])
def test_key_that_is_none_is_refused(source: GcsSource, text: str) -> None:
    with pytest.raises(InvalidRequest, match="not the key"):
        source.resolve(REF, Credentials({"GOOGLE_APPLICATION_CREDENTIALS_JSON": text}), 5)


def test_key_that_cannot_be_used_is_denied(source: GcsSource) -> None:
    key = json.dumps({"type": "service_account", "client_email": "a@b", "private_key": "SECRET"})
    with pytest.raises(SourceDenied) as caught:
        source.resolve(REF, Credentials({"GOOGLE_APPLICATION_CREDENTIALS_JSON": key}), 5)
    assert "SECRET" not in caught.value.message
