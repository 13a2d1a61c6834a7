"""The bench measures what it says it does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.__main__ import measure, table
from tests.bench.callers import percentiles, time_hits
from tests.daemon_process import DaemonProcess
from tests.servers import HubStub


def test_percentiles_are_those_of_the_sample() -> None:
    assert percentiles(range(100)) == {"p50": 49.5, "p99": 99}
    assert percentiles([7.0]) == {"p50": 7.0, "p99": 7.0}


def test_a_run_has_every_figure_and_its_hits_never_ask_the_origin(tmp_path: Path) -> None:
    with HubStub() as hub:
        found = measure(tmp_path, hub, rounds=1, hits=40, callers=2, settle=0)
    assert found["origin_requests_of_all_hits"] == 0
    assert json.loads(json.dumps(found)) == found
    text = table(found)
    assert text.count("Client.acquire + lease") == text.count("snapshot_download") == 3


def test_a_caller_that_cannot_get_its_model_ends_the_measurement(daemon: DaemonProcess) -> None:
    with HubStub() as hub:
        daemon.start(hub_endpoint=hub.endpoint)
        with pytest.raises(AssertionError):
            time_hits(str(daemon.socket), "hf://org/absent", "main", callers=1, hits=1)
