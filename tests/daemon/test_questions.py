"""What the daemon asks sources through its workers, and what comes back: proofs, comparisons, principals, failures."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cached.access import Credentials
from cached.config import Config
from cached.daemon.threads import Threads
from cached.daemon.transfer.workers import Workers
from cached.errors import SourceChanged, SourceDenied, SourceUnavailable
from cached.model import Listing, ModelRef
from tests.servers import GuardedS3, HubStub, Moto
from tests.servers.process import free_port

FILES = {f"m/{number:02}.bin": os.urandom(1000) for number in range(40)}
KEYS = Credentials({"AWS_ACCESS_KEY_ID": "AKIAB", "AWS_SECRET_ACCESS_KEY": "secret"})
REF = ModelRef.parse("s3://questions/m")


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    with Moto() as server:
        for path, data in FILES.items():
            server.put("questions", path, data)
        yield server


@pytest.fixture
def guarded(moto: Moto) -> Iterator[GuardedS3]:
    with GuardedS3(moto.endpoint) as front:
        front.allow("AKIAB", lists=["questions/"], reads=["questions/"])
        yield front


@pytest.fixture
def stub() -> Iterator[HubStub]:
    with HubStub() as server:
        server.add_commit("org/gated", {"README.md": b"#", "config.json": b"{}", "w.safetensors": b"weights"})
        server.gate("org/gated", "granted")
        yield server


class Asked:
    """Workers with these settings, ended with the test."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._made: list[Workers] = []

    def __call__(self, **settings: Any) -> Workers:
        config = Config(**{"root": self._root, "workers": 1, "s3_region": "us-east-1", **settings})
        self._made.append(Workers(config, [], Threads()))
        return self._made[-1]

    async def close(self) -> None:
        for workers in self._made:
            await workers.close()


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[Asked]:
    found = Asked(tmp_path)
    yield found
    await found.close()


async def test_where_rights_are_per_file_a_resolve_proves_nothing_and_a_proof_is_of_every_file(
    asked: Asked, guarded: GuardedS3
) -> None:
    workers = asked(s3_endpoint=guarded.endpoint)
    guarded.allow("AKIAB", lists=["questions/"], reads=[])
    listing = await workers.resolve(REF, KEYS, 10)
    assert listing.rights_per_file and len(listing.entries) == len(FILES)
    one = [entry for entry in listing.entries if entry.path == "23.bin"]
    with pytest.raises(SourceDenied):
        await workers.prove(listing, one, KEYS, 10)
    guarded.allow("AKIAB", lists=["questions/"], reads=["questions/"])
    guarded.requests.clear()
    await workers.prove(listing, listing.entries, KEYS, 10)
    assert sorted(path for _, _, path in guarded.requests) == sorted(f"questions/{path}" for path in FILES)
    guarded.allow("AKIAB", lists=["questions/"], reads=[f"questions/{path}" for path in FILES if "23" not in path])
    with pytest.raises(SourceDenied):
        await workers.prove(listing, listing.entries, KEYS, 10)
    await workers.prove(listing, [entry for entry in listing.entries if entry not in one], KEYS, 10)
    await workers.prove(listing, [], KEYS, 10)


async def test_a_proof_through_a_worker_is_of_the_listed_version(asked: Asked, guarded: GuardedS3) -> None:
    workers = asked(s3_endpoint=guarded.endpoint)
    listing = await workers.resolve(REF, KEYS, 10)
    old = replace(listing.entries[0], version=f"{'0' * 32} 2001-01-01T00:00:00+00:00")
    with pytest.raises(SourceChanged):
        await workers.prove(listing, [old, *listing.entries[1:]], KEYS, 10)


async def test_where_one_file_stands_for_the_place_a_resolve_proves_it_whatever_was_selected(
    asked: Asked, stub: HubStub
) -> None:
    workers = asked(hub_endpoint=stub.endpoint)
    for include in ((), ("README.md", "*.safetensors"), ("config.json",)):
        ref = ModelRef.parse("org/gated", include=include)
        with pytest.raises(SourceDenied):
            await workers.resolve(ref, Credentials(lend=False), 10)
        listing = await workers.resolve(ref, Credentials({"HF_TOKEN": "granted"}), 10)
        assert listing.probe is not None and listing.probe.path == "w.safetensors"
        assert listing.part(listing.entries[:1]).probe == listing.probe


async def test_copies_are_compared_with_what_the_source_gives_these_credentials(
    asked: Asked, guarded: GuardedS3, tmp_path: Path
) -> None:
    workers = asked(s3_endpoint=guarded.endpoint)
    listing = await workers.resolve(REF, KEYS, 10)
    copies = {tmp_path / entry.path: entry for entry in listing.entries}
    for path in copies:
        path.write_bytes(FILES[f"m/{path.name}"])
    await workers.compare(listing, copies, KEYS, 10)
    (tmp_path / "07.bin").write_bytes(os.urandom(1000))
    with pytest.raises(SourceDenied):
        await workers.compare(listing, copies, KEYS, 10)
    guarded.allow("AKIAB", lists=["questions/"], reads=[])
    with pytest.raises(SourceDenied):
        await workers.compare(listing, {tmp_path / "08.bin": listing.entries[8]}, KEYS, 10)


async def test_a_principal_is_named_where_the_source_names_one(asked: Asked, moto: Moto, stub: HubStub) -> None:
    workers = asked(s3_endpoint=moto.endpoint, hub_endpoint=stub.endpoint)
    temporary = Credentials({**KEYS.variables, "AWS_SESSION_TOKEN": "token"})
    assert "123456789012" in (await workers.principal(REF, temporary, 10) or "")
    assert await workers.principal(REF, KEYS, 10) is None
    assert await workers.principal(ModelRef.parse("org/gated"), temporary, 10) is None


async def test_proofs_do_not_wait_for_resolves_that_hang(asked: Asked, stub: HubStub) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=200) as silent:
        workers = asked(s3_endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}", hub_endpoint=stub.endpoint)
        granted = Credentials({"HF_TOKEN": "granted"})
        listing = await workers.resolve(ModelRef.parse("org/gated"), granted, 10)
        hanging = [asyncio.create_task(workers.resolve(REF, KEYS, 60)) for _ in range(50)]
        await asyncio.sleep(0)
        await asyncio.wait_for(workers.prove(listing, listing.entries, granted, 10), 30)
        assert not any(task.done() for task in hanging)
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)


async def test_that_a_source_is_down_is_known_to_the_daemon_and_that_it_wants_less_is_no_outage(
    asked: Asked, stub: HubStub
) -> None:
    workers, granted = asked(hub_endpoint=stub.endpoint), Credentials({"HF_TOKEN": "granted"})
    listing = await workers.resolve(ModelRef.parse("org/gated"), granted, 10)
    for status, seen in ((500, True), (502, True), (429, False)):
        stub.fail(status, times=9, headers={"Retry-After": "7"})
        error = await _failure(workers, listing, granted)
        assert (error.seen, error.retry_after) == (seen, 7.0)
        stub.reset()
    stub.cut()
    assert (await _failure(workers, listing, granted)).seen


async def test_a_refused_connection_was_seen_at_every_source_that_was_asked(asked: Asked) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    workers = asked(s3_endpoint=nowhere, hub_endpoint=nowhere, gs_endpoint=nowhere)
    for uri in ("org/name", "s3://bucket/m", "gs://bucket/m"):
        with pytest.raises(SourceUnavailable) as caught:
            await workers.resolve(ModelRef.parse(uri), KEYS, 5)
        assert caught.value.seen, uri


async def _failure(workers: Workers, listing: Listing, credentials: Credentials) -> SourceUnavailable:
    with pytest.raises(SourceUnavailable) as caught:
        await workers.prove(listing, listing.entries[1:], credentials, 5)
    return caught.value
