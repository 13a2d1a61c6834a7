"""Downloads of one disk, on a store in this process and without a source: what is not asked for a second time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from cached.access import Credentials
from cached.config import Config, Size
from cached.daemon.space.disk import Disk
from cached.daemon.space.room import Room
from cached.daemon.transfer.download import Batch
from cached.daemon.transfer.fetcher import SMALL, Fetcher, Network
from cached.daemon.transfer.workers import Workers
from cached.model import Digest, Entry, Listing, ModelRef
from cached.store.store import Store
from cached.worker.messages import Remote
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
    config = Config(root=disk.root)
    workers = cast(Workers, NoSource())
    return Fetcher(config, disk, workers, Network(config), lambda digest: None, lambda path: None)


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
