"""The Hub's fast lane: one link for all ranges, no token beyond the Hub, nothing asked twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from aiohttp import web

from cached.access import Credentials
from cached.config import Config
from cached.errors import CachedError, InvalidRequest, SourceChanged, SourceDenied, SourceUnavailable
from cached.model_ref import ModelRef
from cached.sources.hub.reader import HubReader
from cached.sources.hub.source import HubSource
from cached.sources.source import Reader
from cached.sources.transport.blocked_hosts import Addresses, Kind
from cached.sources.transport.client import Web
from tests.servers import HubStub

WEIGHTS = os.urandom(500_000)
MODEL = {"config.json": b'{"model_type": "llama"}', "model.safetensors": WEIGHTS}
STEPS = range(0, 500_000, 100_000)
TOKEN = "hf_canary_77b1"


class Mirror(HubStub):
    """Sends large files itself; small ones, as the Hub does, by a redirect to another path of its own."""

    async def _resolve(self, request: web.Request, repo: str, revision: str, name: str) -> web.StreamResponse:
        found = self._find(request, repo, revision, file=True)
        if isinstance(found, web.Response):
            return found
        if name == "config.json" and "cached" not in request.query:
            return web.Response(status=307, headers={"Location": f"{request.path}?cached=1"})
        data = found[0].commits[found[1]][name]
        return await self._send(request, data, {"X-Repo-Commit": found[1], "ETag": f'"{self._hashes(data)[1]}"'})


@pytest.fixture
def stub(request: pytest.FixtureRequest) -> Iterator[HubStub]:
    with getattr(request, "param", HubStub)() as server:
        server.add_commit("org/llama", MODEL)
        yield server


@pytest.fixture
def source(stub: HubStub) -> Iterator[HubSource]:
    client = Web(4)
    source = HubSource(
        Config(hub_endpoint=stub.endpoint, read_timeout=Config.load(read_timeout="2s").read_timeout), client
    )
    yield source
    source.close()
    client.close()


mirror = pytest.mark.parametrize("stub", [Mirror], indirect=True)


def open_reader(source: HubSource, path: str = "model.safetensors", token: str = "") -> HubReader:
    credentials = Credentials({"HF_TOKEN": token} if token else {})
    listing = source.resolve(ModelRef.parse("org/llama"), credentials, 5)
    reader = source.open(listing, next(entry for entry in listing.entries if entry.path == path), credentials)
    assert isinstance(reader, HubReader)
    return reader


def stream(reader: HubReader, at: int, length: int) -> bytes | None:
    got = bytearray()
    done = reader.stream(at, length, got.extend)
    assert done or not got
    return bytes(got) if done else None


def fetch(reader: HubReader, at: int, length: int) -> bytes:
    """As the fetcher does it."""
    got = stream(reader, at, length)
    return reader.read(at, length) if got is None else got


def files_asked(stub: HubStub) -> list[str]:
    return [seen.server for seen in stub.requests if "/api/" not in seen.path]


def test_threads_that_start_together_ask_the_hub_for_one_link(stub: HubStub, source: HubSource) -> None:
    reader = open_reader(source)
    with ThreadPoolExecutor(5) as pool:
        parts = list(pool.map(lambda at: stream(reader, at, 100_000), STEPS))
    assert parts == [WEIGHTS[at : at + 100_000] for at in STEPS]
    assert sorted(files_asked(stub)) == ["cdn"] * 5 + ["hub"]


def test_link_that_ran_out_is_renewed_once_and_streams_go_on(stub: HubStub, source: HubSource) -> None:
    reader = open_reader(source)
    assert stream(reader, 0, 1000) == WEIGHTS[:1000]
    stub.expire_links()
    assert stream(reader, 1000, 1000) is None
    assert reader.read(1000, 1000) == WEIGHTS[1000:2000]
    assert [stream(reader, at, 1000) for at in (2000, 3000)] == [WEIGHTS[2000:3000], WEIGHTS[3000:4000]]
    assert stub.count("/resolve/") == 2


def test_link_outlives_an_answer_that_is_not_for_the_lane(
    stub: HubStub, source: HubSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As behind a proxy, where every answer is left to `read`.
    monkeypatch.setattr("cached.sources.transport.pool.Lanes.stream", lambda *_: False)
    reader = open_reader(source)
    assert b"".join(fetch(reader, at, 100_000) for at in STEPS) == WEIGHTS
    assert sorted(files_asked(stub)) == ["cdn"] * 5 + ["hub"]


def test_content_network_that_redirects_is_asked_where_it_led(stub: HubStub, source: HubSource) -> None:
    reader = open_reader(source, token=TOKEN)
    listing = [seen.path for seen in stub.requests]
    direct = open_reader(source)
    stream(direct, 0, 1)
    assert direct._link is not None
    stub.fail(302, part=direct._link.partition("?")[0].rpartition("/")[2], times=2, headers={"Location": direct._link})
    assert b"".join(fetch(reader, at, 100_000) for at in STEPS) == WEIGHTS
    assert files_asked(stub)[len([path for path in listing if "/api/" not in path]) :].count("hub") == 2
    assert all("authorization" not in seen.headers for seen in stub.requests if seen.server == "cdn")


@mirror
def test_hub_that_sends_files_itself_gets_the_token_and_one_request_for_each_range(
    stub: HubStub, source: HubSource
) -> None:
    stub.hide("org/llama", TOKEN)
    reader = open_reader(source, token=TOKEN)
    assert [stream(reader, at, 100_000) for at in STEPS] == [WEIGHTS[at : at + 100_000] for at in STEPS]
    assert len(files_asked(stub)) == len(STEPS) + 1


@mirror
def test_small_files_that_a_hub_redirects_are_left_to_read_from_the_second_on(stub: HubStub, source: HubSource) -> None:
    for expected in (3, 2, 2):
        reader = open_reader(source, "config.json")
        stub.requests.clear()
        assert fetch(reader, 0, len(MODEL["config.json"])) == MODEL["config.json"]
        assert len(files_asked(stub)) == expected


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refusal_gives_nothing_and_read_says_why(stub: HubStub, source: HubSource, status: int) -> None:
    reader = open_reader(source, "config.json", TOKEN)
    stub.fail(status, part="/resolve/", times=2)
    assert stream(reader, 0, 10) is None
    with pytest.raises((SourceDenied, SourceChanged)) as caught:
        reader.read(0, 10)
    assert TOKEN not in repr(caught.value)


@pytest.mark.parametrize("path", MODEL)
def test_too_many_requests_are_unavailable_with_the_time_to_wait(stub: HubStub, source: HubSource, path: str) -> None:
    reader = open_reader(source, path)
    stub.fail(429, part="/resolve/", headers={"Retry-After": "7"})
    with pytest.raises(SourceUnavailable) as caught:
        stream(reader, 0, 10)
    assert caught.value.retry_after == 7


def test_other_content_at_the_commit_is_noticed(stub: HubStub, source: HubSource) -> None:
    for path in MODEL:
        reader = open_reader(source, path)
        commit = stub.repositories["org/llama"].refs["main"]
        stub.overwritten["org/llama", commit, path] = MODEL[path] + b"!"
        with pytest.raises(SourceChanged):
            stream(reader, 0, 10)
    stub.overwritten["org/llama", commit, "config.json"] = MODEL["config.json"][::-1]
    with pytest.raises(SourceChanged):
        stream(open_reader(source, "config.json"), 0, 10)


@pytest.mark.parametrize(
    "target",
    ["http://169.254.169.254/latest", "http://[fe80::1]/x", "http://h:99999/x", "http://[::1/x", "file:///etc/passwd"],
)
def test_link_to_where_nothing_may_be_fetched_is_refused(stub: HubStub, source: HubSource, target: str) -> None:
    stub.fail(302, part="/resolve/", times=2, headers={"Location": target})
    reader = open_reader(source)
    with pytest.raises(InvalidRequest, match=r"nothing was fetched|not read from there"):
        stream(reader, 0, 10)
    with pytest.raises(InvalidRequest):
        reader.read(0, 10)


def test_content_network_is_judged_by_the_address_that_was_reached(
    stub: HubStub, source: HubSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Addresses, "check_url", lambda *_: None)
    monkeypatch.setattr(Addresses, "kind", lambda _, address: {"127.0.0.1": Kind.NEVER}[address])
    with pytest.raises(InvalidRequest):
        stream(open_reader(source), 0, 10)
    # The Hub's own host is the operator's choice.
    assert stream(open_reader(source, "config.json"), 0, 2) == MODEL["config.json"][:2]


def test_errors_of_the_lane_name_the_model_and_no_link(stub: HubStub, source: HubSource) -> None:
    reader: Reader = open_reader(source, token=TOKEN)
    assert isinstance(reader, HubReader) and stream(reader, 0, 10)
    stub.cut_after(100_000)
    with pytest.raises(CachedError) as caught:
        reader.stream(0, 400_000, lambda _: None)
    assert caught.value.retryable and "org/llama" in caught.value.message
    assert "Signature" not in caught.value.message and caught.value.__suppress_context__
