"""The fast lane of Google Cloud Storage: generations are compared, and compressed objects are left to `read`."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator

import pytest
from aiohttp import web

from cached.access import Credentials
from cached.config import Config
from cached.errors import SourceChanged, SourceUnavailable
from cached.model_ref import ModelRef
from cached.sources.gcs.reader import GcsReader
from cached.sources.gcs.source import GcsSource
from cached.sources.transport.client import Web
from tests.servers.loop import LoopServer

DATA = os.urandom(50_000)
STORED = gzip.compress(DATA)
NOBODY = Credentials()


class Bucket(LoopServer):
    """One object, `w.bin`, of a bucket that says which generation it sends, as Google's does and no emulator."""

    def __init__(self) -> None:
        super().__init__()
        self.data, self.generation, self.encoding, self.status = DATA, "17", "", 0
        self.said = True
        self.media: list[str] = []
        self.endpoint = ""

    async def open(self) -> None:
        application = web.Application()
        application.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.endpoint = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def shut(self) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        item = {"name": "m/w.bin", "size": str(len(self.data)), "generation": self.generation}
        if not request.path.startswith("/download/"):
            return web.json_response(item if request.path.endswith("w.bin") else {"items": [item]})
        self.media.append(request.query.get("generation", ""))
        if self.status:
            return web.Response(status=self.status, headers={"Retry-After": "3"})
        wanted = request.http_range
        start, stop = wanted.start or 0, min(wanted.stop or len(self.data), len(self.data))
        headers = {"Content-Range": f"bytes {start}-{stop - 1}/{len(self.data)}"}
        if self.said:
            headers["X-Goog-Generation"] = self.generation
        if self.encoding:
            headers["Content-Encoding"] = self.encoding
        return web.Response(status=206, body=self.data[start:stop], headers=headers)


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with Bucket() as server:
        yield server


@pytest.fixture
def reader(bucket: Bucket) -> Iterator[GcsReader]:
    client = Web(4)
    source = GcsSource(Config(gs_endpoint=bucket.endpoint), client)
    listing = source.resolve(ModelRef.parse("gs://bucket/m"), NOBODY, 5)
    made = source.open(listing, listing.entries[0], NOBODY)
    assert isinstance(made, GcsReader)
    yield made
    source.close()
    client.close()


def stream(reader: GcsReader, at: int, length: int) -> bytes | None:
    got = bytearray()
    done = reader.stream(at, length, got.extend)
    assert done or not got
    return bytes(got) if done else None


def test_every_range_asks_for_the_generation_that_was_listed(bucket: Bucket, reader: GcsReader) -> None:
    assert [stream(reader, at, 10) for at in (0, 10)] == [DATA[:10], DATA[10:20]]
    assert bucket.media == ["17", "17"]


def test_another_generation_gives_nothing(bucket: Bucket, reader: GcsReader) -> None:
    bucket.data, bucket.generation = DATA[::-1], "18"
    assert stream(reader, 0, 10) is None
    with pytest.raises(SourceChanged, match="generation"):
        reader.read(0, 10)


def test_generation_that_is_not_named_is_checked_again_at_the_end(bucket: Bucket, reader: GcsReader) -> None:
    bucket.said = False
    assert stream(reader, 0, 10) == DATA[:10]
    reader.recheck()
    bucket.generation = "18"
    with pytest.raises(SourceChanged):
        reader.recheck()


def test_named_generation_costs_no_check_at_the_end(bucket: Bucket, reader: GcsReader) -> None:
    stream(reader, 0, 10)
    bucket.generation = "18"
    reader.recheck()


def test_object_that_is_stored_compressed_is_left_to_read(bucket: Bucket) -> None:
    bucket.data, bucket.encoding = STORED, "gzip"
    client = Web(4)
    source = GcsSource(Config(gs_endpoint=bucket.endpoint), client)
    listing = source.resolve(ModelRef.parse("gs://bucket/m"), NOBODY, 5)
    reader = source.open(listing, listing.entries[0], NOBODY)
    assert isinstance(reader, GcsReader)
    for at in (0, 1000, 2000):
        assert stream(reader, at, 1000) is None
        assert reader.read(at, 1000) == STORED[at : at + 1000]
    assert len(bucket.media) == 4
    source.close()
    client.close()


def test_object_that_is_gone_gives_nothing_and_a_busy_server_says_when(bucket: Bucket, reader: GcsReader) -> None:
    bucket.status = 404
    assert stream(reader, 0, 10) is None
    bucket.status = 503
    with pytest.raises(SourceUnavailable) as caught:
        stream(reader, 0, 10)
    assert caught.value.retry_after == 3
