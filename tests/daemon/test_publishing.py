"""Small files that come close together are published together, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from cached.daemon.space.disk import Disk
from cached.daemon.transfer import publish_batcher
from cached.daemon.transfer.publish_batcher import Publishing
from cached.errors import NoSpace
from cached.model import Digest, Entry
from cached.store.publish import Arrival
from cached.store.store import Store


class Published:
    """A store that remembers what was published at a time, and may be told to wait or to fail."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times: list[list[str]] = []
        self.begun, self.go = threading.Event(), threading.Event()
        self.go.set()
        self.error: Exception | None = None
        self._publish = store.publish
        monkeypatch.setattr(store, "publish", self.publish)

    def publish(self, arrivals: Sequence[Arrival]) -> None:
        self.times.append([arrival.key for arrival in arrivals])
        self.begun.set()
        assert self.go.wait(30)
        if self.error is not None:
            raise self.error
        self._publish(arrivals)


@pytest.fixture
def published(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Published:
    monkeypatch.setattr(publish_batcher, "SECONDS", 3600.0)  # Unless a test is about it, no time ends the wait.
    return Published(disk.store, monkeypatch)


def arrival(disk: Disk, name: str) -> Arrival:
    data = name.encode()
    ingest = disk.store.blobs.small_ingest(name, Entry(name, len(data), "v1"), memoryview(data))
    return Arrival(name, ingest.sync(), name)


def is_here(disk: Disk, name: str) -> bool:
    digest = Digest.of(name.encode())
    return disk.store.blobs.size(digest) == len(name) and disk.store.blob(digest) is not None


async def bring(disk: Disk, group: Publishing, name: str, last: asyncio.Event | None = None) -> None:
    """As a bundle comes: it may be on its way for some time."""
    with group.coming():
        if last is not None:
            await last.wait()
    await group.publish([arrival(disk, name)])
    assert is_here(disk, name)


async def test_what_comes_while_more_is_on_its_way_goes_with_it(disk: Disk, published: Published) -> None:
    group, last = Publishing(disk), asyncio.Event()
    late = asyncio.create_task(bring(disk, group, "c", last))
    await asyncio.sleep(0)
    early = [asyncio.create_task(bring(disk, group, name)) for name in "ab"]
    await asyncio.sleep(0)
    assert published.times == []
    last.set()
    await asyncio.wait_for(asyncio.gather(late, *early), 30)
    assert published.times == [["a", "b", "c"]]


async def test_what_comes_alone_waits_for_nobody(disk: Disk, published: Published) -> None:
    group = Publishing(disk)
    for name in "ab":
        await asyncio.wait_for(bring(disk, group, name), 30)
    assert published.times == [["a"], ["b"]]


async def test_when_the_last_that_was_on_its_way_fails_the_others_wait_no_longer(
    disk: Disk, published: Published
) -> None:
    group = Publishing(disk)
    with pytest.raises(ValueError, match="cut"), group.coming():
        waiting = asyncio.create_task(group.publish([arrival(disk, "a")]))
        await asyncio.sleep(0)
        raise ValueError("cut")
    await asyncio.wait_for(waiting, 30)
    assert is_here(disk, "a")


async def test_many_wait_for_no_others(disk: Disk, published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish_batcher, "MANY", 2)
    group = Publishing(disk)
    with group.coming():
        await asyncio.wait_for(asyncio.gather(*(group.publish([arrival(disk, name)]) for name in "abcd")), 30)
    assert published.times == [["a", "b"], ["c", "d"]]


async def test_nobody_waits_longer_than_that(disk: Disk, published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish_batcher, "SECONDS", 0.001)
    group = Publishing(disk)
    with group.coming():
        await asyncio.wait_for(group.publish([arrival(disk, "a")]), 30)
    assert is_here(disk, "a")


async def test_everybody_who_waited_hears_of_the_error(disk: Disk, published: Published) -> None:
    group = Publishing(disk)
    published.error = NoSpace("full")
    with group.coming():
        waiting = [asyncio.create_task(group.publish([arrival(disk, name)])) for name in "ab"]
        await asyncio.sleep(0)
    for each in waiting:
        with pytest.raises(NoSpace):
            await asyncio.wait_for(each, 30)
    published.error = None
    await asyncio.wait_for(bring(disk, group, "c"), 30)


async def test_a_cancelled_caller_comes_back_when_its_files_are_published_and_not_before(
    disk: Disk, published: Published
) -> None:
    group = Publishing(disk)
    published.go.clear()
    task = asyncio.create_task(group.publish([arrival(disk, "a")]))
    await asyncio.to_thread(published.begun.wait, 30)
    task.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()
    published.go.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 30)
    assert is_here(disk, "a")


def test_a_loop_that_ends_while_something_is_published_ends(disk: Disk, published: Published) -> None:
    published.go.clear()

    async def main() -> None:
        waiting = asyncio.create_task(Publishing(disk).publish([arrival(disk, "a")]))
        await asyncio.to_thread(published.begun.wait, 30)
        asyncio.get_running_loop().call_soon(published.go.set)
        assert not waiting.done()

    ending = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    ending.start()
    ending.join(30)
    assert not ending.is_alive()
    assert is_here(disk, "a")
