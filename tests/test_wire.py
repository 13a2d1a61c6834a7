"""What crosses the socket, where the other side is of a version that this one has not seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cached import CachedError, Client, Progress, VersionMismatch
from cached.client.replies import SHAPES, complete
from cached.client.request import DEFAULTS, acquire_body
from cached.daemon.http.versions import FIELDS, understood
from cached.errors import BY_CODE, DaemonUnavailable, Forbidden, InvalidRequest, NoSpace, NotFound, SourceError
from cached.wire import API, Ready, api_of, error_body, parse_error, parse_progress, parse_ready
from tests.cli.wire_server import WireServer

READY = {"event": "ready", "path": "/p", "lock": "/p.json", "digest": "sha256:0"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WireServer]:
    with WireServer(tmp_path) as running:
        yield running


def test_what_a_reply_lacks_has_a_default_and_what_is_new_in_it_is_passed_over() -> None:
    assert parse_ready({**READY, "colour": "red"}) == Ready("/p", "/p.json", "sha256:0")
    assert parse_progress({"event": "progress", "colour": "red"}) == Progress("")
    assert parse_error({"event": "error"}).message == "The daemon gave no reason."


def test_a_field_of_another_type_is_as_good_as_missing() -> None:
    assert parse_ready({**READY, "size": "7", "hit": 1, "revision": None}) == Ready("/p", "/p.json", "sha256:0")
    assert parse_progress({"phase": 7, "done_bytes": True}) == Progress("")
    assert [api_of({"api": value}) for value in (None, "2", True, 0, -1, 2.0, [])] == [1] * 7


@pytest.mark.parametrize("name", ["path", "lock", "digest"])
def test_a_reply_without_what_nothing_can_stand_for_is_one_sentence(name: str) -> None:
    with pytest.raises(VersionMismatch, match=f"has no '{name}', which this client .*same version"):
        parse_ready({key: value for key, value in READY.items() if key != name})


BY_STATUS = {400: InvalidRequest, 403: Forbidden, 404: NotFound, 502: SourceError, 507: NoSpace}


@pytest.mark.parametrize("status", [*BY_STATUS, 409, 503, 500, 299, "400"])
def test_an_unknown_code_becomes_the_class_of_its_status(status: Any) -> None:
    error = parse_error({"code": "from_the_future", "message": "No.", "retryable": True, "status": status})
    assert type(error) is BY_STATUS.get(status, CachedError) and error.message == "No." and error.retryable
    assert not parse_error({"code": "from_the_future", "status": status}).retryable


def test_every_error_crosses_the_wire_as_itself() -> None:
    for kind in BY_CODE.values():
        assert type(parse_error(error_body(kind("why")))) is kind


def test_a_class_that_an_unknown_code_becomes_makes_no_client_wait_for_a_restart() -> None:
    for status in range(100, 600):
        error = parse_error({"code": "from_the_future", "message": "No.", "status": status})
        assert not isinstance(error, DaemonUnavailable)


def test_events_of_a_newer_daemon_are_passed_over(server: WireServer) -> None:
    server.acquire({"event": "weather"}, {"no": "event"}, Progress("fetching"), {"event": ["?"]}, server.ready())
    heard: list[Progress] = []
    with Client(server.socket) as client:
        client.acquire("org/name", progress=heard.append).release()
    assert heard == [Progress("fetching")]


def test_an_unknown_code_in_an_answer_that_began_well_is_the_class_of_its_status(server: WireServer) -> None:
    server.acquire(Progress("fetching"), {"event": "error", "code": "new", "message": "No.", "status": 507})
    with Client(server.socket) as client, pytest.raises(NoSpace, match=r"^No\.$"):
        client.acquire("org/name")


def test_every_verb_is_read_where_the_answer_says_nothing_at_all() -> None:
    for verb, shape in SHAPES.items():
        method, _, path = verb.partition(" ")
        assert complete(method, path, {}).keys() == shape.keys()
    assert complete("GET", "/v1/leases", {"leases": [{"pid": 7}]})["leases"][0]["held"] is False
    assert complete("GET", "/v1/new", {"what": 1}) == {"what": 1}


def test_a_client_that_needs_something_understood_refuses_the_answer_of_an_older_daemon(server: WireServer) -> None:
    server.answers["POST /v1/plan"] = {"fits": True, "api": None}  # None: this daemon does not say, as those of API 1.
    with Client(server.socket) as client:
        assert client.call("POST", "/v1/plan", {"uri": "org/name"})["fits"]
        with pytest.raises(
            VersionMismatch, match=r"older than this client \(API 1 against 2\) .*not know colour: update"
        ):
            client.call("POST", "/v1/plan", {"uri": "org/name", "must": {"colour": "red"}})


def test_what_a_client_asks_for_is_known_to_the_daemon() -> None:
    whole = acquire_body("hf://a/b", "main", ["a"], ["b"], 1, True, True, 1, True, "llm", True)
    assert {*whole, *DEFAULTS, "credentials"} == FIELDS["/v1/acquire"]
    assert understood("/v1/acquire", {**whole, "api": API}) == {**whole, "api": API}


@pytest.mark.parametrize(
    ("api", "which"), [(API + 1, "it is older than the client"), (1, "is older, so"), (API, "the same API, so check")]
)
def test_what_must_be_understood_and_is_not_is_refused_in_a_sentence_that_says_who_is_older(
    api: int, which: str
) -> None:
    with pytest.raises(
        VersionMismatch, match=rf"does not know 'colour', which must be understood: .*{which}"
    ) as caught:
        understood("/v1/acquire", {"uri": "hf://a/b", "api": api, "must": {"colour": "red"}})
    assert "\n" not in caught.value.message


def test_what_must_be_understood_and_is_known_counts_as_if_it_stood_at_the_top() -> None:
    assert understood("/v1/acquire", {"uri": "hf://a/b", "must": {"lean": True}})["lean"] is True


@pytest.mark.parametrize(
    "body",
    [{"must": []}, {"must": None}, {"must": {f"n{i}": 1 for i in range(17)}}, {"must": {"uri": "b"}}]
    + [{"api": value} for value in (0, -1, True, "2", 2.5, None, 1 << 31, [])],
)
def test_a_request_whose_versions_are_nonsense_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        understood("/v1/acquire", {"uri": "hf://a/b", **body})


def test_a_name_that_is_not_understood_is_cut_and_escaped_where_it_is_said() -> None:
    with pytest.raises(VersionMismatch) as caught:
        understood("/v1/acquire", {"must": {"\x1b]\u202e" + "x" * 100_000: 1}})
    assert len(caught.value.message) < 400 and caught.value.message.isprintable()
