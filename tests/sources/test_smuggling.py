"""A caller's credentials are its own: nothing in them becomes a request, and no answer to them reaches another."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from cached.access import Credentials
from cached.config import Config
from cached.errors import CachedError
from cached.model_ref import ModelRef
from cached.sources.s3.source import S3Source
from tests.servers.lenient import LenientS3

MODEL = b'{"hidden_size": 4096}'
ALICE = Credentials({"AWS_ACCESS_KEY_ID": "ALICE", "AWS_SECRET_ACCESS_KEY": "a"})
BOB = {"AWS_ACCESS_KEY_ID": "BOB", "AWS_SECRET_ACCESS_KEY": "b"}
PRIVATE, PUBLIC = ModelRef.parse("s3://private"), ModelRef.parse("s3://pub")


@pytest.fixture
def server() -> Iterator[LenientS3]:
    # Bob has a copy of the file in a place of his own, so that its ETag is the private one's.
    with LenientS3({"/private/config.json": MODEL, "/pub/copy.json": MODEL}, {"private": {"ALICE"}}) as found:
        yield found


@pytest.fixture
def source(server: LenientS3) -> Iterator[S3Source]:
    found = S3Source(Config(s3_endpoint=server.endpoint))
    yield found
    found.close()


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"], ids=["LF", "CR", "CRLF"])
def test_a_token_that_holds_a_request_opens_nobody_elses_model(source: S3Source, server: LenientS3, end: str) -> None:
    smuggled = end.join(["t", "", "HEAD /pub/copy.json HTTP/1.1", "Host: x", "X-Rest: y"])
    bob = Credentials({**BOB, "AWS_SESSION_TOKEN": smuggled})
    listing = source.resolve(PRIVATE, ALICE, 5)
    with contextlib.suppress(CachedError):
        source.resolve(PUBLIC, bob, 5)  # Whose second answer would wait for whoever has the connection next.
    with pytest.raises(CachedError) as caught:
        source.prove(listing, listing.entries[0], bob, 5)
    assert smuggled not in caught.value.message
    assert not [seen for seen in server.seen if "copy.json" in seen.line]


def test_no_two_callers_share_a_connection(source: S3Source, server: LenientS3) -> None:
    for _ in range(2):
        for variables in ({}, BOB, {**BOB, "AWS_SESSION_TOKEN": "other"}, ALICE.variables):
            source.resolve(PUBLIC, Credentials(variables, lend=False), 5)
    by_connection: dict[int, set[str]] = {}
    for seen in server.seen:
        by_connection.setdefault(seen.connection, set()).add(seen.key)
    assert all(len(keys) == 1 for keys in by_connection.values())
    assert len(by_connection) == 4  # And each uses its own again.
