"""An outage is what was seen of the source: a failed connection, silence, a 5xx. Neither a wish for less nor our own
overload is one."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from cached.errors import SourceUnavailable
from cached.model import Listing, ModelRef
from cached.sources.s3_errors import s3_errors
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
