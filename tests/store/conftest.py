from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cached.config import Config, Size
from cached.store.store import Store


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder where a hundred stores open and close in a second, where that can be had."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="cached-tests-", dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def place() -> Iterator[Path]:
    """Where another user can come to as well, which pytest's folders are not."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture
def store_root(tmp_path: Path) -> Path:
    """Where `open_store` has its root; a module whose tests need it elsewhere has a fixture of its own."""
    return tmp_path / "root"


@pytest.fixture
def open_store(store_root: Path) -> Iterator[Callable[[], Store]]:
    """Opens the store on one root; opening it again is a restart."""
    opened: list[Store] = []

    def open_() -> Store:
        while opened:
            opened.pop().close()
        opened.append(Store(Config(root=store_root, keep_free=Size(0))))
        return opened[0]

    yield open_
    while opened:
        opened.pop().close()
