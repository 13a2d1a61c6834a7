"""A suite that cannot fail proves nothing: with one thing wrong in the code it does, and without it does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cached.sources.transport import client
from tests.faults.asked import ask
from tests.faults.controls import CONTROLS
from tests.servers import FaultOrigin

TOKEN = "Bearer hf_canaryTOKENcanaryTOKENcanary"


@pytest.mark.parametrize("control", CONTROLS)
def test_the_suite_sees_what_is_wrong(control: str) -> None:
    answer = ask(control)
    assert answer.points == 2
    assert answer.violations == []


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    with FaultOrigin() as started:
        yield started


def told_elsewhere(origin: FaultOrigin) -> list[str]:
    """What another host is told when the origin sends us there."""
    origin.put("m", {"f": b"data"})
    there = {"Location": f"{origin.cdn}/files/m/f"}
    origin.fail("status", status=302, headers=there, times=1, stages=("body", "probe"), server="origin")
    uri = origin.uri("http", "m", "f")
    with client.Web(1).request(client.HttpRequest(uri, private={"Authorization": TOKEN}), 5) as response:
        assert response.read() == b"data"
    assert [seen.headers.get("authorization") for seen in origin.requests if seen.server == "origin"] == [TOKEN]
    return [seen.headers.get("authorization") for seen in origin.requests if seen.server == "cdn"]


def test_a_token_is_not_kept_on_a_redirect_to_another_host(origin: FaultOrigin) -> None:
    assert told_elsewhere(origin) == [None]


def test_a_token_that_is_kept_on_a_redirect_is_seen(origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "origin", lambda url: ("http", "one and the same", 80))
    assert told_elsewhere(origin) == [TOKEN]
