"""An outage is what was seen of the source: a failed connection, silence, a 5xx. Neither a wish for less nor our own
overload is one."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from aiohttp import web

from cached.access import Credentials
from cached.config import Config
from cached.errors import SourceUnavailable
from cached.model import Listing
from cached.model_ref import ModelRef
from cached.sources.s3.errors import s3_errors
from cached.sources.s3.source import S3Source
from tests.servers import Moto
from tests.servers.front import Front
from tests.servers.process import free_port
from tests.sources.remotes import Remote
from tests.sources.test_conformance import MODEL, NETWORKED

networked = pytest.mark.parametrize("remote", NETWORKED, indirect=True)


def fails(ask: Callable[[], object]) -> bool:
    """Whether an outage was seen."""
    with pytest.raises(SourceUnavailable) as caught:
        ask()
    return caught.value.seen


def elsewhere(remote: Remote, listing: Listing, address: str) -> Listing:
    here = str(remote.settings[remote.endpoint]).partition("://")[2]
    return Listing(listing.ref, listing.place.replace(here, address), listing.revision, listing.entries)


@networked
@pytest.mark.parametrize("silent", [False, True], ids=["refused", "silent"])
def test_a_source_that_refuses_or_is_silent_is_seen_to_be_down(remote: Remote, silent: bool) -> None:
    listing = remote.resolve(remote.new(MODEL))
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        address = f"127.0.0.1:{server.getsockname()[1] if silent else free_port()}"
        source = remote.source(listing.ref, **{remote.endpoint: f"http://{address}"})
        moved = elsewhere(remote, listing, address)
        entry = max(moved.entries, key=lambda entry: entry.size)
        assert fails(lambda: source.resolve(listing.ref, remote.credentials, 1))
        assert fails(lambda: source.prove(moved, entry, remote.credentials, 1))


@pytest.mark.parametrize(
    ("code", "status", "seen"),
    [("SlowDown", 503, False), ("InternalError", 500, True), ("ServiceUnavailable", 503, True), ("429", 429, False)],
)
def test_what_s3_says_of_its_load_is_no_outage(code: str, status: int, seen: bool) -> None:
    import botocore.exceptions as boto  # type: ignore[import-untyped]

    said = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}

    def ask() -> None:
        with s3_errors(ModelRef.parse("s3://bucket/m")):
            raise boto.ClientError(said, "GetObject")

    assert fails(ask) is seen


def test_time_that_ran_out_while_we_waited_for_a_turn_is_no_outage() -> None:
    def ask() -> None:
        with s3_errors(ModelRef.parse("s3://bucket/m")):
            raise TimeoutError

    assert not fails(ask)


class Busy(Front):
    """Answers everything with 503, in these words."""

    def __init__(self, words: str, *, chunked: bool) -> None:
        super().__init__("")
        self._words, self._chunked = words, chunked

    def routes(self) -> list[web.RouteDef]:
        return []

    async def meet(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(status=503)
        if self._chunked:  # As Amazon's does.
            answer.enable_chunked_encoding()
        else:
            answer.content_length = len(self._words)
        await answer.prepare(request)
        await answer.write(self._words.encode())
        await answer.write_eof()
        return answer


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("word", ["SlowDown", "ServiceUnavailable"])
def test_an_s3_that_is_asked_too_much_is_not_down(moto: Moto, word: str, chunked: bool) -> None:
    """https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html: SlowDown comes with 503."""
    moto.put("outages", "m/w.bin", b"bytes")
    ref, caller = ModelRef.parse("s3://outages/m"), Credentials(moto.credentials)
    there = S3Source(Config(s3_endpoint=moto.endpoint))
    listing = there.resolve(ref, caller, 10)
    there.close()
    with Busy(f"<Error><Code>{word}</Code></Error>", chunked=chunked) as busy:
        source = S3Source(Config(s3_endpoint=busy.endpoint))
        place = listing.place.replace(moto.endpoint[7:], busy.endpoint[7:])
        moved = Listing(ref, place, listing.revision, listing.entries)
        asked = (lambda: source.resolve(ref, caller, 5), lambda: source.prove(moved, moved.entries[0], caller, 5))
        assert [fails(ask) for ask in asked] == [word != "SlowDown"] * 2
        source.close()
