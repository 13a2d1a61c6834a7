"""Downloads of one disk, on a store in this process and without a source: what is not asked for a second time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from cached.access import Credentials
from cached.config import Config, Size
from cached.daemon.space.disk import Disk
from cached.daemon.space.room import Room
from cached.daemon.transfer.download import Batch
from cached.daemon.transfer.fetcher import SMALL, Fetcher, Network
from cached.daemon.transfer.workers import Workers
from cached.errors import SourceDenied
from cached.model import Digest, Entry, Listing, ModelRef
from cached.store.store import Store
from cached.worker.messages import Gathered, Remote
from tests.store.stored import publish

BIG, LITTLE = b"b" * (SMALL + 1), b"l" * 10


class NoSource:
    """In the workers' place: whatever is asked of them is one time too many."""

    def __getattr__(self, name: str) -> None:
        raise AssertionError(f"a worker was asked to {name}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    store = Store(Config(root=tmp_path / "root", keep_free=Size(0), limit=Size(1 << 30)))
    yield Disk(store)
    store.close()


@pytest.fixture
def fetcher(disk: Disk) -> Fetcher:
    return fetcher_of(disk, NoSource())


def fetcher_of(disk: Disk, workers: object) -> Fetcher:
    config = Config(root=disk.root)
    return Fetcher(config, disk, cast(Workers, workers), Network(config), lambda digest: None, lambda path: None)


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
    found = await fetcher.fetch(Remote(listing, Credentials()), second.needs.wants.items(), Batch())
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
    assert await fetcher.fetch(Remote(listing, Credentials()), reserved.needs.wants.items(), Batch())
    assert other.needs.wants
    assert list(disk.store.layout.ingest.iterdir()) == []


class Denying:
    """In the workers' place: one token opens the file, and whoever shows another waits to be refused."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.asked: list[str] = []
        self.refuse = asyncio.Event()

    async def gather(self, root: Path, wants: dict[str, Entry], remote: Remote, count: Any) -> Gathered:
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
        return asyncio.create_task(fetcher.fetch(remote, wants.items(), Batch()))

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
    assert await fetcher.fetch(Remote(listing, Credentials()), needs.wants.items(), Batch())
    assert disk.store.usage().reserved == 0
    await disk.abandon(first.fill)
    assert disk.store.index.forget_orphans() == []
