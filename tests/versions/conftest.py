from __future__ import annotations

import pytest

from tests.versions.release import Release, Unobtainable


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base  # Each process of xdist has its own below.
    try:
        return Release.built(shared / "release-before")
    except Unobtainable as reason:
        pytest.skip(str(reason))
