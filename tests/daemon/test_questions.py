"""What the daemon asks sources through its workers, and what comes back: proofs, comparisons, principals, failures."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cached.access import Credentials
from cached.budget import Budget
from cached.config import Config
from cached.daemon.access.callers import Caller
from cached.daemon.runtime.shares import SHARE
from cached.daemon.runtime.threads import Threads
from cached.daemon.transfer import worker_pool
from cached.daemon.transfer.workers import Workers
from cached.errors import SourceChanged, SourceDenied, SourceUnavailable
from cached.model import Entry, Listing
from cached.model_ref import ModelRef
from cached.worker.messages import PROOFS, RESOLVES, Cancel, Request, frame
from cached.worker.proving import AT_ONCE, Askers
from tests.servers import GuardedS3, HubStub, Moto
from tests.servers.process import free_port

FILES = {f"m/{number:02}.bin": os.urandom(1000) for number in range(40)}
KEYS = Caller(4001, Credentials({"AWS_ACCESS_KEY_ID": "AKIAB", "AWS_SECRET_ACCESS_KEY": "secret"}))
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
            await workers.resolve(ref, Caller(4002, Credentials(lend=False)), 10)
        listing = await workers.resolve(ref, Caller(4001, Credentials({"HF_TOKEN": "granted"})), 10)
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
    temporary = Caller(4001, Credentials({**KEYS.credentials.variables, "AWS_SESSION_TOKEN": "token"}))
    assert "123456789012" in (await workers.principal(REF, temporary, 10) or "")
    assert await workers.principal(REF, KEYS, 10) is None
    assert await workers.principal(ModelRef.parse("org/gated"), temporary, 10) is None


async def test_proofs_do_not_wait_for_resolves_that_hang(asked: Asked, stub: HubStub) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=200) as silent:
        workers = asked(s3_endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}", hub_endpoint=stub.endpoint)
        granted = Caller(4001, Credentials({"HF_TOKEN": "granted"}))
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
    workers, granted = asked(hub_endpoint=stub.endpoint), Caller(4001, Credentials({"HF_TOKEN": "granted"}))
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


async def _failure(workers: Workers, listing: Listing, caller: Caller) -> SourceUnavailable:
    with pytest.raises(SourceUnavailable) as caught:
        await workers.prove(listing, listing.entries[1:], caller, 5)
    return caught.value


class Mute:
    """A server that never answers. `asked` counts its connections that are open."""

    def __init__(self) -> None:
        self.asked = 0
        self.more = asyncio.Condition()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Mute:
        self._server = await asyncio.start_server(self._hear, "127.0.0.1", 0)
        return self

    @property
    def endpoint(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        async with self.more:
            self.asked += 1
            self.more.notify_all()
        await reader.read()
        writer.close()

    async def reach(self, number: int) -> None:
        async with self.more:
            await self.more.wait_for(lambda: self.asked >= number)


def _listing(workers: Workers) -> Listing:
    endpoint = workers._config.s3_endpoint.removeprefix("http://")
    return Listing(REF, f"s3://{endpoint}/questions/m", "r", (ENTRY,))


Question = Callable[[Workers, Caller, Path], Coroutine[Any, Any, object]]
ENTRY = Entry("w.bin", 4, f"{'0' * 32} 2001-01-01T00:00:00+00:00")
TEMPORARY = Credentials({**KEYS.credentials.variables, "AWS_SESSION_TOKEN": "token"})
QUESTIONS: dict[str, Question] = {
    "resolve": lambda workers, caller, path: workers.resolve(REF, caller, 60),
    "prove": lambda workers, caller, path: workers.prove(_listing(workers), [ENTRY], caller, 60),
    "compare": lambda workers, caller, path: workers.compare(_listing(workers), {path: ENTRY}, caller, 60),
    "principal": lambda workers, caller, path: workers.principal(REF, replace(caller, credentials=TEMPORARY), 60),
}


@pytest.mark.parametrize("kind", QUESTIONS)
async def test_hanging_up_gives_no_turn_back_while_the_worker_asks(
    asked: Asked, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr(worker_pool, "frame", lambda message: told.append(message) or frame(message))
    (tmp_path / "w.bin").write_bytes(b"1234")
    async with Mute() as mute:
        workers, ask = asked(s3_endpoint=mute.endpoint), QUESTIONS[kind]
        share = (RESOLVES if kind == "resolve" else PROOFS) // SHARE

        def begin(uid: int, number: int) -> list[asyncio.Task[object]]:
            caller = replace(KEYS, uid=uid)
            return [asyncio.create_task(ask(workers, caller, tmp_path / "w.bin")) for _ in range(number)]

        first = begin(4001, share)
        await mute.reach(share)
        for task in first:
            task.cancel()
        await asyncio.wait(first)
        assert all(task.cancelled() for task in first)
        again = begin(4001, share)
        other = begin(4002, 1)
        await mute.reach(share + 1)  # The other's, as it came later.
        assert sum(isinstance(message, Request) for message in told) == share + 1
        assert sum(isinstance(message, Cancel) for message in told) == share, "the worker may stop"
        await workers.close()  # With the worker ends what it was asked.
        await asyncio.gather(*again, *other, return_exceptions=True)
        assert workers._asking == set()


def test_of_a_proof_that_nobody_waits_for_any_more_nothing_further_is_asked() -> None:
    budget, seen = Budget.unbounded(), list[int]()

    def ask(item: int) -> None:
        seen.append(item)
        budget.cancel()

    with budget.spent_here(), pytest.raises(SourceUnavailable):
        Askers(AT_ONCE).each(ask, range(1000))
    assert 1 <= len(seen) <= AT_ONCE
