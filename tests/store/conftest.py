from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cached.config import Config, Size
from cached.store.store import Store


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Opens the store on one root; opening it again is a restart."""
    opened: list[Store] = []

    def open_() -> Store:
        while opened:
            opened.pop().close()
        opened.append(Store(Config(root=tmp_path / "root", keep_free=Size(0))))
        return opened[0]

    yield open_
    while opened:
        opened.pop().close()
