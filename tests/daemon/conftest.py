"""What tests of the daemon share: each module has an `s3` of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cached.config import Config, Size
from cached.daemon.space.disk import Disk
from cached.store.store import Store
from tests.daemon.rooms import Rooms
from tests.servers import CountingProxy, RcloneS3


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """With a store in this process."""
    store = Store(Config(root=tmp_path / "root", keep_free=Size(0), limit=Size(1 << 30)))
    yield Disk(store)
    store.close()


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Rooms]:
    made = Rooms(tmp_path)
    yield made
    made.close()


@pytest.fixture
def proxy(s3: RcloneS3) -> Iterator[CountingProxy]:
    with CountingProxy(s3.endpoint) as running:
        yield running
