"""What every source promises, whatever stands behind it."""

from __future__ import annotations

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cached.access import Credentials
from cached.errors import CachedError, InvalidRequest, ModelNotFound, SourceChanged, SourceDenied, SourceUnavailable
from cached.model import Entry, Listing
from cached.model_ref import ModelRef
from cached.sources.source import FastReader, Reader
from tests.servers import Azurite
from tests.servers.process import free_port
from tests.sources.remotes import Remote

# Our own server stands for Azure where Microsoft's emulator is not installed.
AZURE = "azurite" if Azurite.PROGRAM else "azure"
NETWORKED = ["moto", "rclone", "gcs", "hub", AZURE]
EVERY = [*NETWORKED, "moto-versioned", "rclone-untagged", "file", "memory"]
FAST = [name for name in EVERY if name not in ("file", "memory", AZURE)]
CANARY = "canary-6f1d"

every = pytest.mark.parametrize("remote", EVERY, indirect=True)
# Bytes come by `read`, or by the fast lane with `read` behind it, and the promises are the same.
both = pytest.mark.parametrize(
    ("remote", "way"),
    [(name, "read") for name in EVERY] + [(name, "stream") for name in FAST],
    indirect=["remote"],
)
networked = pytest.mark.parametrize("remote", NETWORKED, indirect=True)
single = pytest.mark.parametrize("remote", [name for name in EVERY if name != "hub"], indirect=True)
locked = pytest.mark.parametrize("remote", ["rclone", "hub", AZURE], indirect=True)

WEIGHTS = os.urandom(300_000)
MODEL = {"config.json": b'{"model_type": "llama"}', "model.safetensors": WEIGHTS, "sub/deep/tokenizer.json": b"[]"}


def get(reader: Reader, way: str, offset: int, length: int) -> bytes:
    """As the daemon does it: what the fast lane does not take is asked of `read`."""
    if way == "stream":
        assert isinstance(reader, FastReader)
        got = bytearray()
        if reader.stream(offset, length, got.extend):
            return bytes(got)
        assert not got
    return reader.read(offset, length)


def get_all(remote: Remote, way: str, listing: Listing, entry: Entry) -> bytes:
    reader = remote.source(listing.ref).open(listing, entry, remote.credentials)
    try:
        data = b"".join(get(reader, way, at, min(200_000, entry.size - at)) for at in range(0, entry.size, 200_000))
        reader.recheck()
        return data
    finally:
        reader.close()


@every
def test_lists_every_file_with_its_size(remote: Remote) -> None:
    listing = remote.resolve(remote.new(MODEL))
    assert {entry.path: entry.size for entry in listing.entries} == {path: len(data) for path, data in MODEL.items()}
    assert listing.revision and all(entry.version for entry in listing.entries)


@both
def test_ranges_are_the_bytes_of_the_file_from_several_threads(remote: Remote, way: str) -> None:
    listing = remote.resolve(remote.new(MODEL))
    entry = next(entry for entry in listing.entries if entry.path == "model.safetensors")
    reader = remote.source(listing.ref).open(listing, entry, remote.credentials)
    spans = [(0, 1), (0, 1000), (1, 99_999), (299_999, 1), (123, 200_000), (0, 300_000), (299_000, 1000), (5, 0)]
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda span: get(reader, way, *span), spans))
    reader.recheck()
    reader.close()
    assert parts == [WEIGHTS[offset : offset + length] for offset, length in spans]


@both
def test_names_are_quoted_where_they_must_be(remote: Remote, way: str) -> None:
    files = {"a b.json": b"1", "sub dir/ü%20+&.json": b"22", "c#d;e=f.safetensors": b"333", "q?x.json": b"4444"}
    listing = remote.resolve(remote.new(files))
    assert {entry.path: get_all(remote, way, listing, entry) for entry in listing.entries} == files


@both
def test_empty_file_is_listed_and_reads_as_nothing(remote: Remote, way: str) -> None:
    listing = remote.resolve(remote.new({"empty.txt": b"", "config.json": b"{}"}))
    assert {entry.path: get_all(remote, way, listing, entry) for entry in listing.entries}["empty.txt"] == b""


@both
@pytest.mark.parametrize(
    "fresh", [os.urandom(300_000), os.urandom(300_001), os.urandom(10)], ids=["same size", "longer", "shorter"]
)
def test_overwritten_meanwhile_gives_old_bytes_or_source_changed(remote: Remote, way: str, fresh: bytes) -> None:
    uri = remote.new(MODEL)
    listing = remote.resolve(uri)
    entry = next(entry for entry in listing.entries if entry.path == "model.safetensors")
    reader = remote.source(listing.ref).open(listing, entry, remote.credentials)
    first = get(reader, way, 0, 150_000)
    remote.write(uri, "model.safetensors", fresh)
    try:
        whole = first + get(reader, way, 150_000, 150_000)
        reader.recheck()
    except SourceChanged as error:
        assert "model.safetensors" in error.message
    else:
        assert whole == WEIGHTS
    finally:
        reader.close()


@both
def test_overwritten_before_the_first_read_gives_old_bytes_or_source_changed(remote: Remote, way: str) -> None:
    uri = remote.new(MODEL)
    listing = remote.resolve(uri)
    entry = next(entry for entry in listing.entries if entry.path == "model.safetensors")
    remote.write(uri, "model.safetensors", os.urandom(300_000))
    try:
        assert get_all(remote, way, listing, entry) == WEIGHTS
    except SourceChanged:
        pass


@both
def test_deleted_meanwhile_gives_old_bytes_or_source_changed(remote: Remote, way: str) -> None:
    uri = remote.new(MODEL)
    listing = remote.resolve(uri)
    entry = next(entry for entry in listing.entries if entry.path == "model.safetensors")
    remote.delete(uri, "model.safetensors")
    try:
        assert get_all(remote, way, listing, entry) == WEIGHTS
    except SourceChanged:
        pass


@every
def test_patterns_select_files(remote: Remote) -> None:
    uri = remote.new(MODEL)
    taken = remote.resolve(uri, include=["*.json"], exclude=["sub/*"])
    assert [entry.path for entry in taken.entries] == ["config.json"]


@every
def test_patterns_that_match_nothing_say_so(remote: Remote) -> None:
    uri = remote.new(MODEL)
    with pytest.raises(ModelNotFound, match=f"no model files at {uri}"):
        remote.resolve(uri, include=["*.onnx"])


@every
def test_empty_place_has_no_model_files(remote: Remote) -> None:
    uri = remote.new({})
    with pytest.raises(ModelNotFound, match=f"no model files at {uri}"):
        remote.resolve(uri)


@every
def test_place_that_does_not_exist_is_not_found(remote: Remote) -> None:
    remote.new(MODEL)
    hidden = remote.name == "hub"  # Which says the same of what is private.
    with pytest.raises(SourceDenied if hidden else ModelNotFound, match=r"nowhere.*\."):
        remote.resolve(f"{remote.new(MODEL)}-nowhere")


@every
def test_revision_is_stable_and_follows_the_content(remote: Remote) -> None:
    uri = remote.new(MODEL)
    first = remote.resolve(uri)
    assert remote.resolve(uri) == first
    remote.write(uri, "config.json", b'{"model_type": "mamba"}')
    second = remote.resolve(uri)
    assert second.revision != first.revision
    old, new = ({e.path: listing.identity(e) for e in listing.entries} for listing in (first, second))
    assert old["config.json"] != new["config.json"]


@every
def test_sibling_with_the_same_beginning_is_another_place(remote: Remote) -> None:
    uri = remote.new({"config.json": b"{}"})
    sibling = remote.place(f"{uri.partition('://')[2].split('/')[-2 if uri.endswith('/llama') else -1]}2")
    remote.write(sibling, "other.json", b"{}")
    if uri.endswith("/llama"):
        remote.write(f"{uri}2", "another.json", b"{}")
        remote.write(f"{uri}-chat", "another.json", b"{}")
    assert [entry.path for entry in remote.resolve(uri).entries] == ["config.json"]


@single
def test_uri_of_one_file_is_that_file(remote: Remote) -> None:
    uri = remote.new(MODEL)
    listing = remote.resolve(f"{uri}/model.safetensors")
    assert [entry.path for entry in listing.entries] == ["model.safetensors"]
    assert remote.read(listing, listing.entries[0]) == WEIGHTS


@every
def test_hostile_names_are_refused_before_anything_is_read(remote: Remote) -> None:
    for name in remote.hostile:
        uri = remote.new({"config.json": b"{}"})
        remote.write(uri, name, b"x")
        with pytest.raises(InvalidRequest, match="nothing was fetched"):
            remote.resolve(uri)


@every
def test_names_that_collide_are_refused(remote: Remote) -> None:
    uri = remote.new({"config.json": b"{}", "Config.JSON": b"{}"})
    with pytest.raises(InvalidRequest, match="collide"):
        remote.resolve(uri)


@networked
def test_place_names_the_endpoint(remote: Remote) -> None:
    listing = remote.resolve(remote.new(MODEL))
    assert str(remote.settings[remote.endpoint]).partition("://")[2] in listing.place


@networked
def test_server_that_is_down_is_unavailable_at_once(remote: Remote) -> None:
    ref = ModelRef.parse(remote.new(MODEL))
    source = remote.source(ref, **{remote.endpoint: f"http://127.0.0.1:{free_port()}"})
    began = time.monotonic()
    with pytest.raises(SourceUnavailable) as caught:
        source.resolve(ref, remote.credentials, 10)
    assert time.monotonic() - began < 3
    assert caught.value.retryable and ref.uri in caught.value.message


@networked
def test_server_that_does_not_answer_is_unavailable_within_the_timeout(remote: Remote) -> None:
    ref = ModelRef.parse(remote.new(MODEL))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = remote.source(ref, **{remote.endpoint: f"http://127.0.0.1:{silent.getsockname()[1]}"})
        began = time.monotonic()
        with pytest.raises(SourceUnavailable, match="in time"):
            source.resolve(ref, remote.credentials, 0.5)
        assert time.monotonic() - began < 3


@networked
def test_read_from_a_silent_server_ends_with_the_read_timeout(remote: Remote) -> None:
    listing = remote.resolve(remote.new(MODEL))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        moved = type(listing)(
            listing.ref,
            listing.place.replace(str(remote.settings[remote.endpoint])[7:], address),
            listing.revision,
            listing.entries,
        )
        source = remote.source(listing.ref, **{remote.endpoint: f"http://{address}", "read_timeout": 0.5})
        began = time.monotonic()
        with pytest.raises(SourceUnavailable):
            source.open(moved, moved.entries[0], remote.credentials).read(0, 2)
        assert time.monotonic() - began < 3


@locked
def test_wrong_credentials_are_denied_and_never_repeated(remote: Remote, request: pytest.FixtureRequest) -> None:
    uri = remote.new(MODEL)
    if remote.name == "hub":
        request.getfixturevalue("hub").gate(uri.removeprefix("hf://"), "right-token")
    ref = ModelRef.parse(uri)
    aws = {"AWS_ACCESS_KEY_ID": f"AKIA{CANARY}", "AWS_SECRET_ACCESS_KEY": CANARY}
    wrong = Credentials({"HF_TOKEN": CANARY, "AZURE_STORAGE_ACCOUNT_KEY": f"{CANARY[:6]}AA", **aws})
    with pytest.raises(SourceDenied) as caught:
        listing = remote.source(ref).resolve(ref, wrong, 10)
        remote.source(ref).prove(listing, listing.probe, wrong, 10)
    assert caught.value.exit_code == 4 and ref.uri in caught.value.message
    assert CANARY[:6] not in _everything(caught.value) + repr(wrong)


@every
def test_errors_are_one_sentence_that_says_what_to_do(remote: Remote) -> None:
    with pytest.raises(CachedError) as caught:
        remote.resolve(f"{remote.new(MODEL)}-nowhere")
    message = caught.value.message
    assert message.endswith(".") and "\n" not in message and len(message) < 400


def _everything(error: BaseException | None) -> str:
    """What a traceback would show: the error and all that it came from."""
    text = ""
    while error is not None:
        text += f"{error!r} {error}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return text
