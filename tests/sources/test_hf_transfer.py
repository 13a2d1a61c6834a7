"""The hf_transfer engine: right bytes, no token, no hold on the daemon, no secret where others can read it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cached.access import Credentials
from cached.config import Config
from cached.errors import SourceUnavailable
from cached.model_ref import ModelRef
from cached.sources.hub.hf_transfer import HfTransfer
from cached.sources.hub.reader import HubReader
from cached.sources.hub.source import HubSource
from cached.sources.transport.client import Web
from tests.servers import HubStub

MIB = 1 << 20
WEIGHTS = os.urandom(25 * MIB + 7)
TOKEN = "hf_canary_5d20"
REF = ModelRef.parse("org/llama")


@pytest.fixture
def stub() -> Iterator[HubStub]:
    with HubStub() as server:
        server.add_commit("org/llama", {"config.json": b"{}", "model.safetensors": WEIGHTS})
        yield server


@pytest.fixture
def part(tmp_path: Path) -> Path:
    path = tmp_path / "part"
    path.write_bytes(b"")
    os.truncate(path, len(WEIGHTS))
    return path


def open_reader(stub: HubStub, path: str = "model.safetensors", engine: str = "hf_transfer", **more: int) -> HubReader:
    source = HubSource(Config(hub_endpoint=stub.endpoint, engine=engine, **more), Web(4))  # type: ignore[arg-type]
    credentials = Credentials({"HF_TOKEN": TOKEN})
    listing = source.resolve(REF, credentials, 5)
    reader = source.open(listing, next(entry for entry in listing.entries if entry.path == path), credentials)
    assert isinstance(reader, HubReader)
    return reader


@pytest.mark.parametrize("connections", [1, 2, 16])
def test_the_whole_file_comes_and_the_token_stays_at_the_hub(stub: HubStub, part: Path, connections: int) -> None:
    reader = open_reader(stub, connections=connections, min_connections=1)
    counts: list[int] = []
    assert reader.whole and reader.download(part, counts.append)
    assert part.read_bytes() == WEIGHTS
    # The package counts one byte too few for a chunk.
    assert len(WEIGHTS) - 3 <= sum(counts) <= len(WEIGHTS)
    sent = {(seen.server, seen.headers.get("authorization")) for seen in stub.requests}
    assert sent == {("hub", f"Bearer {TOKEN}"), ("cdn", None)}


def test_engine_is_off_unless_asked_for_and_never_for_small_files(
    stub: HubStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not open_reader(stub, engine="auto").whole
    assert not open_reader(stub, "config.json").whole
    monkeypatch.setenv("HF_HUB_ENABLE_HF_TRANSFER", "1")
    assert open_reader(stub, engine="auto").whole


def test_file_that_needs_the_token_is_not_for_the_engine(stub: HubStub, part: Path) -> None:
    assert not open_reader(stub, "config.json").download(part, lambda _: None)
    assert not any(part.read_bytes())


def test_other_threads_go_on_meanwhile(stub: HubStub, part: Path) -> None:
    # The package holds Python's lock for as long as it works.
    reader = open_reader(stub)
    stub.pause()
    threading.Timer(1.0, stub.resume).start()
    reader._link = f"{stub.cdn}/nothing"
    began, longest, ended = time.monotonic(), 0.0, threading.Event()

    def download() -> None:
        with pytest.raises(SourceUnavailable):
            reader.download(part, lambda _: None)
        ended.set()

    threading.Thread(target=download).start()
    last = began
    while not ended.wait(0.01):
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    assert last - began > 0.5 and longest < 0.5


def test_failure_is_unavailable_and_the_signed_link_is_in_no_message(stub: HubStub, part: Path) -> None:
    reader = open_reader(stub)
    stub.fail(403, part="/", times=100)
    reader._link = f"{stub.cdn}/x?Signature=SECRET"
    with pytest.raises(SourceUnavailable) as caught:
        reader.download(part, lambda _: None)
    assert "SECRET" not in caught.value.message and caught.value.retryable


def test_silence_ends_and_the_link_is_no_argument(stub: HubStub, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = HfTransfer(Config())
    engine._patience = 1.0
    stub.pause()
    seen: list[bytes] = []

    def look() -> None:
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.append(process.read_bytes())
            except OSError:
                pass  # It has ended.

    watcher = threading.Timer(0.6, look)
    watcher.start()
    with pytest.raises(SourceUnavailable, match="too slowly"):
        engine.fetch(REF, f"{stub.cdn}/x?Signature=CANARY-{os.getpid()}", part, lambda _: None)
    watcher.join()
    stub.resume()
    assert any(b"hf_transfer_worker" in line for line in seen)
    assert not any(b"CANARY-%d" % os.getpid() in line for line in seen)
