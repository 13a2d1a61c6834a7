from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .command import Command
from .wire_server import WireServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WireServer]:
    with WireServer(tmp_path) as running:
        yield running


@pytest.fixture
def cached(server: WireServer) -> Command:
    return Command(server.socket)


@pytest.fixture
def alone(tmp_path: Path) -> Command:
    """The command on a node without a daemon."""
    return Command(tmp_path / "nothing.sock")
