"""One Ray for all tests of a real replica, and a small real model."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.demo import leftovers

if TYPE_CHECKING:
    from tests.demo.local_ray import LocalRay


@pytest.fixture(scope="package")
def local_ray() -> Iterator[LocalRay]:
    """Ray Serve with its dashboard, which `serve deploy` talks to. Nothing of it is left after these tests."""
    from tests.demo.local_ray import LocalRay

    folder = Path(tempfile.mkdtemp(prefix="cached-ray-", dir="/tmp"))  # Short: Ray's sockets are below it.
    mark = os.environ[leftovers.MARK] = uuid.uuid4().hex
    try:
        with LocalRay(folder / "ray", dashboard=True) as local:
            yield local
    finally:
        del os.environ[leftovers.MARK]
        stayed = leftovers.end(mark)
        leftovers.remove_tree(folder)
    assert stayed == []


@pytest.fixture(scope="package")
def llama(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a Llama that vLLM loads."""
    from tests.demo.llama import make_llama

    folder = make_llama(tmp_path_factory.mktemp("llama"))
    return {path.name: path.read_bytes() for path in folder.iterdir()}
