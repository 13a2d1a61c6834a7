"""http(s) files, and through them every way in which a server can answer a range wrongly."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cached.access import Credentials
from cached.config import Config
from cached.errors import CachedError, InvalidRequest, ModelNotFound, SourceChanged, SourceUnavailable
from cached.model import Listing
from cached.model_ref import ModelRef
from cached.sources.transport.blocked_hosts import Addresses, Kind
from cached.sources.transport.client import Web
from cached.sources.url import HttpSource
from tests.servers import Files

DATA = os.urandom(50_000)
NOBODY = Credentials()


@pytest.fixture
def files() -> Iterator[Files]:
    with Files({"/dir/model%20a.gguf": DATA, "/dir/model.gguf": DATA, "/empty.bin": b""}) as server:
        yield server


@pytest.fixture
def source() -> Iterator[HttpSource]:
    web = Web(4, Addresses(["127.0.0.0/8"]))
    yield HttpSource(Config(read_timeout=Config.load(read_timeout="2s").read_timeout), web)
    web.close()


def resolve(source: HttpSource, url: str) -> Listing:
    return source.resolve(ModelRef.parse(url), NOBODY, 5)


def read(source: HttpSource, listing: Listing, offset: int, length: int) -> bytes:
    return source.open(listing, listing.entries[0], NOBODY).read(offset, length)


def test_one_file_is_a_model(files: Files, source: HttpSource) -> None:
    listing = resolve(source, f"{files.endpoint}/dir/model.gguf")
    assert [(entry.path, entry.size) for entry in listing.entries] == [("model.gguf", 50_000)]
    assert read(source, listing, 10, 40_000) == DATA[10:40_010]


def test_empty_file_is_a_file(files: Files, source: HttpSource) -> None:
    assert [entry.size for entry in resolve(source, f"{files.endpoint}/empty.bin").entries] == [0]


@pytest.mark.parametrize("rule", ["right", "ignore", "as-200"])
def test_ranges_are_right_however_the_server_answers_them(files: Files, source: HttpSource, rule: str) -> None:
    files.rule = rule
    listing = resolve(source, f"{files.endpoint}/dir/model.gguf")
    spans = [(0, 50_000), (0, 10), (49_999, 1), (20_000, 20_000)]
    assert [read(source, listing, *span) for span in spans] == [DATA[at : at + count] for at, count in spans]


@pytest.mark.parametrize("rule", ["shifted", "unnamed", "short", "gzip", "drip"])
def test_wrong_answers_are_unavailable_and_never_bytes(files: Files, source: HttpSource, rule: str) -> None:
    listing = resolve(source, f"{files.endpoint}/dir/model.gguf")
    files.rule = rule
    began = time.monotonic()
    with pytest.raises(SourceUnavailable) as caught:
        read(source, listing, 100, 200)
    assert caught.value.retryable and time.monotonic() - began < 6


@pytest.mark.parametrize("rule", ["right", "as-200"])
@pytest.mark.parametrize("tags", [True, False], ids=["ETag", "date"])
def test_changed_file_is_noticed(files: Files, source: HttpSource, tags: bool, rule: str) -> None:
    path = "/dir/model.gguf"
    files.tags, files.rule, files.dates = tags, rule, {path: "Mon, 23 Nov 2026 10:00:00 GMT"}
    listing = resolve(source, f"{files.endpoint}{path}")
    files.files[path], files.dates[path] = DATA[::-1], "Mon, 23 Nov 2026 10:00:01 GMT"
    with pytest.raises(SourceChanged):
        read(source, listing, 0, 10)


def test_file_without_etag_is_checked_again_at_the_end(files: Files, source: HttpSource) -> None:
    path = "/dir/model.gguf"
    files.tags, files.dates = False, {path: "Mon, 23 Nov 2026 10:00:00 GMT"}
    listing = resolve(source, f"{files.endpoint}{path}")
    reader = source.open(listing, listing.entries[0], NOBODY)
    reader.read(0, 10)
    reader.recheck()
    files.dates[path] = "Mon, 23 Nov 2026 10:00:01 GMT"
    with pytest.raises(SourceChanged):
        reader.recheck()


def test_another_size_is_a_change(files: Files, source: HttpSource) -> None:
    files.tags = False
    listing = resolve(source, f"{files.endpoint}/dir/model.gguf")
    files.files["/dir/model.gguf"] = DATA + b"!"
    with pytest.raises(SourceChanged):
        read(source, listing, 0, 10)


def test_deleted_file_is_a_change_and_a_missing_one_is_not_found(files: Files, source: HttpSource) -> None:
    listing = resolve(source, f"{files.endpoint}/dir/model.gguf")
    del files.files["/dir/model.gguf"]
    with pytest.raises(SourceChanged):
        read(source, listing, 0, 10)
    with pytest.raises(ModelNotFound, match="no model files at http"):
        resolve(source, f"{files.endpoint}/dir/model.gguf")


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/iam",
        "http://[fe80::1]/x",
        "http://[::ffff:169.254.169.254]/x",
        "http://2852039166/x",
        "http://metadata.google.internal/x",
        "http://0.0.0.0/x",
        "http://100.100.100.200/x",
    ],
)
def test_metadata_services_are_refused_directly_and_after_a_redirect(
    files: Files, source: HttpSource, target: str
) -> None:
    files.redirects["/dir/hop.gguf"] = target
    for url in (target, f"{files.endpoint}/dir/hop.gguf"):
        with pytest.raises(InvalidRequest, match="metadata"):
            resolve(source, url)


def test_name_that_turns_out_to_be_a_metadata_address_is_refused_by_what_it_reached(
    files: Files, source: HttpSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The look-up passes, and the connection then ends somewhere else: as when a name changes its address.
    monkeypatch.setattr(Addresses, "check_url", lambda *_: None)
    monkeypatch.setattr(Addresses, "kind", lambda _, address: {"127.0.0.1": Kind.NEVER}[address])
    with pytest.raises(InvalidRequest):
        resolve(source, f"{files.endpoint}/dir/model.gguf")


def test_redirects_are_followed_and_loops_end(files: Files, source: HttpSource) -> None:
    files.redirects = {"/a/model.gguf": "../dir/model.gguf", "/loop.bin": "/loop.bin"}
    assert read(source, resolve(source, f"{files.endpoint}/a/model.gguf"), 0, 9) == DATA[:9]
    with pytest.raises(SourceUnavailable, match="loop"):
        resolve(source, f"{files.endpoint}/loop.bin")


def test_redirect_to_another_kind_of_address_is_refused(files: Files, source: HttpSource) -> None:
    files.redirects["/f.bin"] = "file:///etc/passwd"
    with pytest.raises(InvalidRequest, match=r"not http\(s\)"):
        resolve(source, f"{files.endpoint}/f.bin")


@pytest.mark.parametrize("form", ["http://user:SECRET@{host}/f.bin", "http://{host}/", "http://{host}/folder/"])
def test_urls_with_passwords_or_without_a_file_are_refused(files: Files, source: HttpSource, form: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        resolve(source, form.format(host=files.endpoint[7:]))
    assert "SECRET" not in caught.value.message


def test_query_strings_are_used_and_never_repeated(files: Files, source: HttpSource) -> None:
    listing = resolve(source, f"{files.endpoint}/dir/model.gguf?Signature=SECRET")
    assert listing.entries[0].path == "model.gguf"
    del files.files["/dir/model.gguf"]
    attempts: list[Any] = [lambda: resolve(source, listing.ref.uri), lambda: read(source, listing, 0, 5)]
    for attempt in attempts:
        with pytest.raises(CachedError) as caught:
            attempt()
        assert "SECRET" not in caught.value.message
