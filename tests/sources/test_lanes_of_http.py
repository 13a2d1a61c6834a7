"""The fast lane of plain files: pinned by ETag or date, and at the end of redirects."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from cached.access import Credentials
from cached.config import Config
from cached.errors import InvalidRequest, SourceChanged, SourceUnavailable
from cached.model_ref import ModelRef
from cached.sources.transport.blocked_hosts import Addresses, Kind
from cached.sources.transport.client import Web, next_url
from cached.sources.url import HttpReader, HttpSource
from tests.servers import Files

DATA = os.urandom(50_000)
PATH = "/dir/model.gguf"
NOBODY = Credentials()
DATES = ("Mon, 23 Nov 2026 10:00:00 GMT", "Mon, 23 Nov 2026 10:00:01 GMT")


@pytest.fixture
def files() -> Iterator[Files]:
    with Files({PATH: DATA, "/other/model.gguf": DATA, "/モデル+é.gguf": DATA}) as server:
        yield server


@pytest.fixture
def source() -> Iterator[HttpSource]:
    web = Web(4, Addresses(["127.0.0.0/8"]))
    source = HttpSource(Config(read_timeout=Config.load(read_timeout="2s").read_timeout), web)
    yield source
    source.close()
    web.close()


def open_reader(source: HttpSource, url: str) -> HttpReader:
    listing = source.resolve(ModelRef.parse(url), NOBODY, 5)
    reader = source.open(listing, listing.entries[0], NOBODY)
    assert isinstance(reader, HttpReader)
    return reader


def stream(reader: HttpReader, at: int, length: int) -> bytes | None:
    got = bytearray()
    done = reader.stream(at, length, got.extend)
    assert done or not got
    return bytes(got) if done else None


@pytest.mark.parametrize("path", ["/モデル+é.gguf", f"{PATH}?a=ü&b=%2F", f"{PATH}#part"])
def test_urls_are_quoted_as_they_are_by_read(files: Files, source: HttpSource, path: str) -> None:
    reader = open_reader(source, f"{files.endpoint}{path}")
    assert stream(reader, 5, 1000) == reader.read(5, 1000) == DATA[5:1005]


@pytest.mark.parametrize("tags", [True, False], ids=["ETag", "date"])
@pytest.mark.parametrize("rule", ["right", "as-200"])
def test_another_version_gives_nothing(files: Files, source: HttpSource, tags: bool, rule: str) -> None:
    files.tags, files.rule, files.dates = tags, rule, {PATH: DATES[0]}
    reader = open_reader(source, f"{files.endpoint}{PATH}")
    assert stream(reader, 0, 10) == DATA[:10]
    files.files[PATH], files.dates[PATH] = DATA[::-1], DATES[1]
    assert stream(reader, 10, 10) is None
    with pytest.raises(SourceChanged):
        reader.read(10, 10)


def test_file_without_etag_is_checked_again_at_the_end(files: Files, source: HttpSource) -> None:
    files.tags, files.dates = False, {PATH: DATES[0]}
    reader = open_reader(source, f"{files.endpoint}{PATH}")
    stream(reader, 0, 10)
    reader.recheck()
    files.dates[PATH] = DATES[1]
    with pytest.raises(SourceChanged):
        reader.recheck()


def test_redirect_is_walked_once_and_its_end_is_streamed(files: Files, source: HttpSource) -> None:
    files.redirects = {"/hop.gguf": PATH}
    reader = open_reader(source, f"{files.endpoint}/hop.gguf")
    assert stream(reader, 0, 10) is None
    assert reader.read(0, 10) == DATA[:10]
    files.requests.clear()
    assert [stream(reader, at, 10) for at in (10, 20)] == [DATA[10:20], DATA[20:30]]
    assert [path for path, _ in files.requests] == [PATH, PATH]
    # The end has run out; the redirect leads elsewhere now.
    del files.files[PATH]
    files.redirects["/hop.gguf"] = "/other/model.gguf"
    assert stream(reader, 30, 10) is None
    assert reader.read(30, 10) == DATA[30:40] and stream(reader, 40, 10) == DATA[40:50]


def test_redirect_to_another_version_gives_nothing(files: Files, source: HttpSource) -> None:
    files.redirects = {"/hop.gguf": PATH}
    reader = open_reader(source, f"{files.endpoint}/hop.gguf")
    assert stream(reader, 0, 10) is None and reader.read(0, 10) == DATA[:10]
    files.files[PATH] = DATA[::-1]
    assert stream(reader, 10, 10) is None
    with pytest.raises(SourceChanged):
        reader.read(10, 10)


def test_server_that_is_never_plain_is_soon_left_to_read(files: Files, source: HttpSource) -> None:
    reader = open_reader(source, f"{files.endpoint}{PATH}")
    files.rule = "gzip"
    asked = 0
    for _ in range(5):
        files.requests.clear()
        assert stream(reader, 0, 10) is None
        asked += len(files.requests)
        with pytest.raises(SourceUnavailable):
            reader.read(0, 10)
    assert asked == 1
    files.rule = "right"
    assert stream(reader, 0, 10) is None and reader.read(0, 10) == DATA[:10]
    assert stream(reader, 0, 10) == DATA[:10]


@pytest.mark.parametrize("location", ["http://h:99999/x", "http://h:port/x", "http://[::1/x"])
def test_malformed_redirect_is_refused_in_a_sentence(files: Files, source: HttpSource, location: str) -> None:
    files.redirects = {"/hop.gguf": location}
    for url in (location, f"{files.endpoint}/hop.gguf"):
        with pytest.raises(InvalidRequest, match="malformed"):
            source.resolve(ModelRef.parse(url), NOBODY, 5)


@pytest.mark.parametrize("url", ["https://h/x", "HTTPS://h/x"])
def test_encryption_is_never_given_up(url: str) -> None:
    assert next_url(url, "/y").lower() == "https://h/y"
    with pytest.raises(SourceUnavailable, match="unencrypted"):
        next_url(url, "http://h/x")


def test_peer_is_judged_by_the_address_that_was_reached(
    files: Files, source: HttpSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = open_reader(source, f"{files.endpoint}{PATH}")

    monkeypatch.setattr(Addresses, "check_url", lambda *_: None)
    monkeypatch.setattr(Addresses, "kind", lambda _, address: {"127.0.0.1": Kind.NEVER}[address])
    with pytest.raises(InvalidRequest):
        stream(reader, 0, 10)
