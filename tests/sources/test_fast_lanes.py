"""What every fast lane promises: the bytes that `read` gives, or nothing at all."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from cached.access import Credentials
from cached.config import Config
from cached.errors import CachedError, SourceChanged
from cached.model import Listing
from cached.model_ref import ModelRef
from cached.sources.source import FastReader
from cached.sources.transport.blocked_hosts import Addresses
from cached.sources.transport.client import Web
from cached.sources.url import HttpSource
from tests.servers import Files, HubStub
from tests.servers.files import RULES
from tests.sources.remotes import Remote

FAST = ["moto", "moto-versioned", "rclone", "rclone-untagged", "gcs", "hub"]
fast = pytest.mark.parametrize("remote", FAST, indirect=True)

WEIGHTS = os.urandom(600_000)
MODEL = {"config.json": b'{"model_type": "llama"}', "model.safetensors": WEIGHTS}


def reader_of(remote: Remote, listing: Listing, path: str) -> FastReader:
    entry = next(entry for entry in listing.entries if entry.path == path)
    reader = remote.source(listing.ref).open(listing, entry, remote.credentials)
    assert isinstance(reader, FastReader)
    return reader


def stream(reader: FastReader, offset: int, length: int) -> bytes | None:
    got = bytearray()
    done = reader.stream(offset, length, got.extend)
    assert done or not got
    return bytes(got) if done else None


@fast
def test_a_stream_is_the_bytes_of_the_file_from_several_threads(remote: Remote) -> None:
    listing = remote.resolve(remote.new(MODEL))
    reader = reader_of(remote, listing, "model.safetensors")
    spans = [(0, 1), (0, 1000), (1, 99_999), (599_999, 1), (123, 500_000), (0, 600_000), (599_000, 1000)] * 2
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda span: stream(reader, *span), spans))
    reader.recheck()
    reader.close()
    assert parts == [WEIGHTS[offset : offset + length] for offset, length in spans]
    small = reader_of(remote, listing, "config.json")
    assert stream(small, 0, len(MODEL["config.json"])) == MODEL["config.json"]


@fast
def test_a_stream_never_mixes_versions(remote: Remote) -> None:
    uri = remote.new(MODEL)
    listing = remote.resolve(uri)
    reader = reader_of(remote, listing, "model.safetensors")
    first = stream(reader, 0, 300_000)
    remote.write(uri, "model.safetensors", os.urandom(600_000))
    try:
        second = stream(reader, 300_000, 300_000)
        if second is not None:
            reader.recheck()
            assert (first or b"") + second == WEIGHTS
    except SourceChanged:
        pass


@fast
def test_a_file_that_is_gone_gives_nothing(remote: Remote) -> None:
    uri = remote.new(MODEL)
    listing = remote.resolve(uri)
    reader = reader_of(remote, listing, "model.safetensors")
    remote.delete(uri, "model.safetensors")
    try:
        got = stream(reader, 0, 600_000)
    except CachedError:
        return
    # Versioned places, the Hub's commits among them, still have it.
    assert got in (None, WEIGHTS)


def test_the_token_is_for_the_hub_and_not_for_its_content_network() -> None:
    with HubStub() as hub:
        commit = hub.add_commit("org/llama", MODEL)
        credentials = Credentials({"HF_TOKEN": "hf_canary"})
        from cached.sources.hub.source import HubSource

        source = HubSource(Config(hub_endpoint=hub.endpoint), Web(4))
        listing = source.resolve(ModelRef.parse("hf://org/llama", commit), credentials, 10)
        for entry in listing.entries:
            reader = source.open(listing, entry, credentials)
            assert stream(reader, 0, entry.size) == MODEL[entry.path]
        source.close()
        seen = {(request.server, "authorization" in request.headers) for request in hub.requests}
    assert ("hub", True) in seen and ("cdn", False) in seen and ("cdn", True) not in seen


@pytest.mark.parametrize("rule", RULES)
def test_a_server_that_breaks_the_rules_gets_no_wrong_byte_in(rule: str) -> None:
    with Files({"/w.bin": WEIGHTS}) as files:
        source = HttpSource(Config(read_timeout=1), Web(4, Addresses(["127.0.0.0/8"])))  # type: ignore[arg-type]
        listing = source.resolve(ModelRef.parse(f"{files.endpoint}/w.bin"), Credentials(), 5)
        reader = source.open(listing, listing.entries[0], Credentials())
        assert isinstance(reader, FastReader)
        files.rule = rule
        got = bytearray()
        try:
            done = reader.stream(0, 300_000, got.extend)
        except CachedError:
            done = False
        source.close()
    assert bytes(got) == WEIGHTS[: len(got)], "what came in order is right, whole or not"
    assert done == (rule in ("right", "ignore", "as-200"))
