"""Downloads of one disk, on a store in this process and without a source: what is not asked for a second time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cached.access import Credentials
from cached.config import Config
from cached.daemon.space.disk import Disk
from cached.daemon.space.reservation import Room
from cached.daemon.transfer.bundles import BUNDLE, SMALL
from cached.daemon.transfer.download import Batch
from cached.daemon.transfer.fetcher import Fetcher
from cached.daemon.transfer.network import Network
from cached.daemon.transfer.workers import Workers
from cached.errors import SourceDenied, SourceUnavailable
from cached.model import Digest, Entry, Listing
from cached.model_ref import ModelRef
from cached.store.blobs.blobs import ingest_key
from cached.store.blobs.ingest import Verified
from cached.worker.messages import Gathered, Into, Remote
from tests.store.stored import publish

BIG, LITTLE = b"b" * (SMALL + 1), b"l" * 10


class NoSource:
    """In the workers' place: whatever is asked of them is one time too many."""

    def __getattr__(self, name: str) -> None:
        raise AssertionError(f"a worker was asked to {name}")


@pytest.fixture
def fetcher(disk: Disk) -> Fetcher:
    return fetcher_of(disk, NoSource())


def fetcher_of(disk: Disk, workers: object) -> Fetcher:
    config = Config(root=disk.root)
    secure = Room(config, disk).secure
    return Fetcher(
        config, disk, cast(Workers, workers), Network(config), lambda digest: None, lambda path: None, secure
    )


@pytest.mark.parametrize("named", [True, False], ids=["by its digest", "by its place and version"])
@pytest.mark.parametrize("data", [BIG, LITTLE], ids=["large", "small"])
async def test_what_came_between_the_look_and_the_turn_is_not_fetched_again(
    disk: Disk, fetcher: Fetcher, data: bytes, named: bool
) -> None:
    ref = ModelRef.parse("s3://bucket/model")
    entry = Entry("w", len(data), "v1", Digest.of(data) if named else None)
    listing = Listing(ref, str(ref), "revision", (entry,))
    room = Room(Config(root=disk.root), disk)
    first, second = await room.reserve(listing), await room.reserve(listing)
    publish(disk.store, listing, entry, data)
    await disk.abandon(first.fill)
    found = await fetcher.fetch(Remote(listing, Credentials()), second.needs.wants, Batch())
    assert list(found.values()) == [Digest.of(data)]
    assert disk.store.index.forget_orphans() == []
    assert disk.store.usage().reserved == 0


async def test_what_had_landed_of_a_file_that_came_under_another_name_is_dropped(disk: Disk, fetcher: Fetcher) -> None:
    ref = ModelRef.parse("s3://bucket/model")
    entry = Entry("w", len(BIG), "v1", Digest.of(BIG))
    listing = Listing(ref, str(ref), "revision", (entry,))
    unnamed = Listing(ref, "elsewhere", "revision", (Entry("w", len(BIG), "v1"),))
    room = Room(Config(root=disk.root), disk)
    reserved = await room.reserve(listing)
    disk.store.blobs.ingest(Digest.of(BIG).hex, entry).close()
    other = await room.reserve(unnamed)
    publish(disk.store, unnamed, unnamed.entries[0], BIG)
    assert await fetcher.fetch(Remote(listing, Credentials()), reserved.needs.wants, Batch())
    assert other.needs.wants
    assert list(disk.store.layout.ingest.iterdir()) == []


class Sending:
    """In the workers' place: files come when the test says so, and only up to those that `broken` names."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.asked: list[list[str]] = []
        self.send = asyncio.Event()
        self.broken: set[str] = set()

    async def gather(self, root: Path, wants: dict[str, Entry], remote: Remote, count: Any, room: Any) -> Gathered:
        self.asked.append([entry.path for entry in wants.values()])
        await self.send.wait()
        verified = {}
        for key, entry in wants.items():
            if entry.path in self.broken:
                return Gathered(verified, SourceUnavailable("cut"))
            ingest = self._disk.store.blobs.small_ingest(key, entry, memoryview(entry.path.encode()))
            verified[key] = ingest.sync()
        return Gathered(verified, None)


def small_files(count: int) -> Listing:
    """Each file holds its own name."""
    names = [f"{number:04}" for number in range(count)]
    ref = ModelRef.parse("s3://bucket/model")
    return Listing(ref, str(ref), "revision", tuple(Entry(name, len(name), "v1") for name in names))


async def test_small_files_are_spread_over_the_connections_and_large_numbers_go_together(disk: Disk) -> None:
    for count, together in ((10, 1), (10 * BUNDLE, 20), (40 * BUNDLE, BUNDLE)):
        listing, workers = small_files(count), Sending(disk)
        wants = {ingest_key(listing.identity(entry), None): entry for entry in listing.entries}
        fetching = asyncio.create_task(fetcher_of(disk, workers).fetch(Remote(listing, Credentials()), wants, Batch()))
        async with asyncio.timeout(60):
            while len(workers.asked) < 8:  # Twice what an origin gets at first.
                await asyncio.sleep(0.001)
        assert max(map(len, workers.asked)) == together
        fetching.cancel()
        workers.send.set()
        with pytest.raises(asyncio.CancelledError):
            await fetching


async def test_what_came_before_a_cut_is_kept_and_only_the_rest_is_asked_for_again(disk: Disk) -> None:
    listing, workers = small_files(4 * BUNDLE), Sending(disk)
    workers.broken, first = {"0003"}, listing.entries[0]
    reserved = await Room(Config(root=disk.root), disk).reserve(listing)
    remote, wants = Remote(listing, Credentials()), reserved.needs.wants
    workers.send.set()
    with pytest.raises(SourceUnavailable):
        await fetcher_of(disk, workers).fetch(remote, wants, Batch())
    tries = [paths for paths in workers.asked if "0003" in paths]
    assert tries[0][0] == first.path and [paths[0] for paths in tries[1:]] == ["0003"] * (len(tries) - 1)
    assert disk.store.blob(Digest.of(first.path.encode())) is not None
    workers.broken.clear()
    workers.asked.clear()
    needs = await Room(Config(root=disk.root), disk).needs(listing)
    assert first.path in needs.digests
    assert len(await fetcher_of(disk, workers).fetch(remote, needs.wants, Batch())) == len(needs.wants)
    assert not any(first.path in paths for paths in workers.asked)


class Denying:
    """In the workers' place: one token opens the file, and whoever shows another waits to be refused."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.asked: list[str] = []
        self.refuse = asyncio.Event()

    async def gather(self, root: Path, wants: dict[str, Entry], remote: Remote, count: Any, room: Any) -> Gathered:
        self.asked.append(remote.credentials.variables["HF_TOKEN"])
        if self.asked[-1] != "right":
            await self.refuse.wait()
            return Gathered({}, SourceDenied("refused"))
        ((key, entry),) = wants.items()
        ingest = self._disk.store.blobs.ingest(key, entry)
        ingest.land(ingest.missing()[0], LITTLE)
        verified = ingest.verify()
        ingest.close()
        return Gathered({key: verified}, None)


async def test_who_joined_a_download_that_another_may_not_go_on_with_tries_with_the_own_credentials(disk: Disk) -> None:
    ref = ModelRef.parse("org/model")
    listing = Listing(ref, "hf://hub/org/model", "c", (Entry("w", len(LITTLE), "v1", Digest.of(LITTLE)),))
    workers = Denying(disk)
    fetcher = fetcher_of(disk, workers)
    wants = (await Room(Config(root=disk.root), disk).reserve(listing)).needs.wants

    def fetch(token: str) -> asyncio.Task[dict[str, Digest]]:
        remote = Remote(listing, Credentials({"HF_TOKEN": token}))
        return asyncio.create_task(fetcher.fetch(remote, wants, Batch()))

    first = fetch("wrong")
    while not workers.asked:
        await asyncio.sleep(0)
    joined, also = fetch("right"), fetch("wrong")
    await asyncio.sleep(0)
    workers.refuse.set()
    assert list((await joined).values()) == [Digest.of(LITTLE)]
    for refused in (first, also):
        with pytest.raises(SourceDenied):
            await refused
    assert workers.asked == ["wrong", "right"]


async def test_what_came_before_room_was_reserved_is_held_from_then_on(disk: Disk, fetcher: Fetcher) -> None:
    ref = ModelRef.parse("s3://bucket/model")
    entry = Entry("w", len(LITTLE), "v1")
    listing = Listing(ref, str(ref), "revision", (entry,))
    room = Room(Config(root=disk.root), disk)
    needs = await room.needs(listing)
    first = await room.reserve(listing)
    publish(disk.store, listing, entry, LITTLE)
    wants = {key: each.size for key, each in needs.wants.items()}
    assert disk.store.index.begin(str(ref), wants, [], 1 << 30) is not None
    assert disk.store.usage().reserved == len(LITTLE)
    assert await fetcher.fetch(Remote(listing, Credentials()), needs.wants, Batch())
    assert disk.store.usage().reserved == 0
    await disk.abandon(first.fill)
    assert disk.store.index.forget_orphans() == []


class Resuming:
    """In the workers' place: of a large file so much has landed already, by whomever."""

    def __init__(self, disk: Disk, landed: int) -> None:
        self._disk, self._landed = disk, landed

    @contextlib.asynccontextmanager
    async def transfer(self, into: Into, entry: Entry, remote: Remote, count: Any, room: Any) -> AsyncIterator[Any]:
        ingest = self._disk.store.blobs.ingest(into.key, entry)
        for piece in ingest.missing():
            ingest.land(piece, BIG[piece.offset : piece.offset + piece.length])

        async def finish() -> Verified:
            try:
                return ingest.verify()
            finally:
                ingest.close()

        yield SimpleNamespace(landed=self._landed, whole=False, missing=(), finish=finish)


@pytest.mark.parametrize("landed", [0, 1])
async def test_a_file_of_which_something_had_landed_was_not_read_by_these_credentials(disk: Disk, landed: int) -> None:
    entry = Entry("w", len(BIG), "v1", Digest.of(BIG))
    listing = Listing(ModelRef.parse("hf://org/model"), "mine", "revision", (entry,))
    read = await read_by(disk, Remote(listing, Credentials()), Resuming(disk, landed))
    assert len(read) == (landed == 0)
    assert len(disk.store.index.seen_at("mine", [Digest.of(BIG)])) == (landed == 0)


async def read_by(disk: Disk, remote: Remote, workers: object) -> set[str]:
    """Keys that a fill of this remote's credentials has read itself, fetching one file."""
    (entry,) = remote.listing.entries
    batch, wants = Batch(), {ingest_key(remote.listing.identity(entry), entry.digest): entry}
    await fetcher_of(disk, workers).fetch(remote, wants, batch)
    return batch.read


async def test_what_is_read_for_others_or_was_here_is_not_read_by_these_credentials(disk: Disk) -> None:
    ref = ModelRef.parse("hf://org/model")
    entry = Entry("w", 1, "v1", Digest.of(b"w"))
    mine, theirs = (Listing(ref, place, "revision", (entry,)) for place in ("mine", "theirs"))
    key = ingest_key(mine.identity(entry), entry.digest)
    workers = Sending(disk)
    fetcher = fetcher_of(disk, workers)
    wants = {key: entry}
    token = Credentials({"HF_TOKEN": "t"})
    remotes = [Remote(mine, token), Remote(mine, token), Remote(mine, Credentials()), Remote(theirs, token)]
    batches = [Batch() for _ in remotes]
    fetching = [
        asyncio.create_task(fetcher.fetch(remote, wants, batch)) for remote, batch in zip(remotes, batches, strict=True)
    ]
    workers.send.set()
    await asyncio.gather(*fetching)
    assert workers.asked == [["w"]], "one download for all of them"
    assert [batch.read for batch in batches] == [{key}, {key}, set(), set()]
    assert await read_by(disk, Remote(mine, token), NoSource()) == set(), "it had arrived"
    index = disk.store.index
    assert index.seen_at("mine", [Digest.of(b"w")]) and not index.seen_at("theirs", [Digest.of(b"w")])
