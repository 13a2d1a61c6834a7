"""Redirects, links that run out, and doors that close: what the origin is told, nobody else is."""

from __future__ import annotations

import pytest

from cached import CachedError, SourceDenied, SourceUnavailable
from tests.faults.rig import SECRET, TOKEN, Rig, Target
from tests.servers.fault_kinds import EVER


def elsewhere(rig: Rig, target: Target) -> str:
    """A place at another host that has the same file."""
    return f"{rig.origin.cdn}/files/{target.model}/{target.path}"


def told_elsewhere(rig: Rig) -> list[str]:
    """Secrets and signatures that another host has been sent."""
    seen = [f"{each.path} {each.headers}" for each in rig.origin.requests if each.server == "cdn"]
    return [text for text in seen if TOKEN in text or SECRET in text or "authorization" in text.lower()]


def test_the_hub_gets_the_token_and_its_content_network_does_not(rig: Rig) -> None:
    rig.recovers(rig.make("hub", "large"))
    seen = {each.server: each.headers.get("authorization") for each in rig.origin.requests}
    assert seen == {"origin": f"Bearer {TOKEN}", "cdn": None}
    assert told_elsewhere(rig) == []


@pytest.mark.parametrize("status", [302, 307])
@pytest.mark.parametrize("stage", ["body", "link", "list"])
def test_the_token_never_follows_to_another_host(rig: Rig, protocol: str, stage: str, status: int) -> None:
    target = rig.make(protocol, "large" if stage == "link" else "small")
    at = {"Location": elsewhere(rig, target)}
    rig.origin.fail("status", status=status, headers=at, stages=(stage,), times=3)
    rig.survives(target)
    assert told_elsewhere(rig) == []


def test_a_redirect_to_another_host_is_followed(rig: Rig) -> None:
    target = rig.make("http")
    to = {"Location": elsewhere(rig, target)}
    rig.origin.fail("status", status=302, headers=to, times=EVER, stages=("probe", "body"), server="origin")
    rig.recovers(target)
    assert [each for each in rig.origin.requests if each.server == "cdn" and target.model in each.path]


@pytest.mark.parametrize("stage", ["body", "link", "list"])
def test_a_redirect_loop_ends(rig: Rig, protocol: str, stage: str) -> None:
    target = rig.make(protocol, "large" if stage == "link" else "small")
    fault = rig.origin.fail("status", status=302, headers={"Location": "?again"}, stages=(stage,), times=EVER)
    outcome = rig.survives(target)
    assert isinstance(outcome, CachedError) or not fault.struck, repr(outcome)


@pytest.mark.parametrize("host", ["http://169.254.169.254/latest", "http://metadata.google.internal/"])
def test_a_redirect_to_a_metadata_service_is_not_followed(rig: Rig, protocol: str, host: str) -> None:
    target = rig.make(protocol)
    rig.origin.fail("status", status=302, headers={"Location": host}, times=EVER)
    outcome = rig.survives(target)
    assert isinstance(outcome, CachedError), repr(outcome)


def test_a_link_that_runs_out_half_way_is_replaced_by_a_fresh_one(rig: Rig) -> None:
    target = rig.make("hub", "large")
    links = rig.origin.seen("link")
    rig.origin.fail("none", at=2, before=rig.origin.expire_links)
    rig.recovers(target)
    assert rig.origin.seen("link") >= links + 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_content_network_that_refuses_every_link_is_an_error(rig: Rig, status: int) -> None:
    target = rig.make("hub", "large")
    rig.origin.fail("status", status=status, times=EVER)
    rig.refuses(target, SourceUnavailable)


@pytest.mark.parametrize("status", [401, 403])
def test_a_door_that_closes_half_way_is_denied(rig: Rig, protocol: str, size: str, status: int) -> None:
    target = rig.make(protocol, size)
    rig.origin.fail("status", status=status, at=target.middle, times=EVER, stages=("body", "link"))
    if (protocol, size) == ("hub", "large"):  # Its links say nothing about the caller; the Hub does.
        rig.refuses(target, SourceDenied, SourceUnavailable)
    else:
        rig.refuses(target, SourceDenied)


@pytest.mark.parametrize("status", [401, 403])
def test_a_door_that_was_never_open_is_denied(rig: Rig, protocol: str, status: int) -> None:
    target = rig.make(protocol)
    rig.origin.fail("status", status=status, times=EVER, stages=("list", "probe"))
    rig.refuses(target, SourceDenied)


def test_no_secret_is_in_a_log_an_error_or_a_file(rig: Rig, protocol: str) -> None:
    for kind, how in (("status", {"status": 403}), ("status", {"status": 500}), ("not-http", {}), ("none", {})):
        target = rig.make(protocol)
        rig.origin.fail(kind, times=EVER, stages=("list", "probe", "link", "body"), **how)
        outcome = rig.survives(target)
        assert isinstance(outcome, CachedError) or kind == "none", repr(outcome)
    assert rig.leaks() == []
    assert [each.path for each in rig.origin.requests if TOKEN in each.path or SECRET in each.path] == []


def test_the_search_for_secrets_finds_one(rig: Rig) -> None:
    rig.messages.append(f"told: {TOKEN}")
    (rig.daemon.root / "ingest" / "planted").write_text(SECRET)
    try:
        assert len(rig.leaks()) == 2
    finally:
        rig.messages.pop()
        (rig.daemon.root / "ingest" / "planted").unlink()
