"""One origin and one daemon for all faults of a module: each fault has a model of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.daemon_process import DaemonProcess
from tests.faults.rig import PROTOCOLS, Rig
from tests.servers import FaultOrigin


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """After the last fault, and after a restart, the store is as it should be and no secret has got anywhere."""
    with FaultOrigin() as origin:
        rig = Rig(origin, DaemonProcess(tmp_path_factory.mktemp("faults") / "daemon"))
        try:
            yield rig.start()
            assert rig.leaks() == []
            rig.daemon.stop()
            rig.daemon.start()
            rig.audit()
            assert rig.daemon.files("trash") == []
            rig.daemon.stop()
        finally:
            rig.close()


@pytest.fixture
def rig(shared: Rig) -> Iterator[Rig]:
    yield shared
    shared.origin.heal()


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["small", "large"])
def size(request: pytest.FixtureRequest) -> str:
    return str(request.param)
