"""What the daemon makes of `api`, `must` and fields that it does not know."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cached import VersionMismatch
from cached.client.connection import Connection
from cached.client.replies import SHAPES, complete
from cached.daemon.http.api import Api
from cached.daemon.http.versions import FIELDS
from cached.wire import API
from tests.daemon_process import DaemonProcess


@pytest.fixture
def model(daemon: DaemonProcess, make_model: Callable[..., Path]) -> str:
    folder = make_model()
    daemon.start(protocols=["file"], file_roots=[str(folder.parent)])
    return f"file://{folder}"


@pytest.fixture
def raw(daemon: DaemonProcess, model: str) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """Send a request as it stands, and read the lines of the answer."""
    connection = Connection(str(daemon.socket), 30)

    def ask(method: str, verb: str, body: object = None) -> list[dict[str, Any]]:
        connection.send(method, verb, None if body is None else json.dumps(body).encode())
        lines = [json.loads(line) for line in connection.lines()]
        connection.rest()
        return lines

    yield ask
    connection.close()


def verbs() -> list[tuple[str, str]]:
    """Method and path of every verb of the API."""
    return [(method, path) for method, path, *_ in Api(*[_Anything()] * 3).verbs if path.startswith("/v1/")]  # type: ignore[arg-type]


class _Anything:
    def __getattr__(self, name: str) -> Any:
        return self


def test_every_line_of_every_answer_says_what_the_daemon_speaks(
    raw: Callable[..., list[dict[str, Any]]], model: str
) -> None:
    for method, path in verbs():
        for body in ({"uri": model, "ref": model}, {}):
            target = path.replace("{ref:.+}", model if body else "absent")
            for line in raw(method, target, body if method == "POST" else None):
                assert line["api"] == API, (method, path, line)


def test_every_verb_with_a_body_names_the_fields_that_it_knows() -> None:
    assert {path for method, path in verbs() if method == "POST"} == FIELDS.keys()


def test_every_field_of_every_answer_has_a_default_in_the_client(
    raw: Callable[..., list[dict[str, Any]]], model: str
) -> None:
    raw("POST", "/v1/acquire", {"uri": model})
    assert {f"{method} {path.replace('{ref:.+}', '')}" for method, path in verbs()} - SHAPES.keys() == {
        "POST /v1/acquire"
    }
    for method, path in sorted(verbs(), key=lambda verb: verb[1] == "/v1/remove"):  # Which leaves nothing to show.
        if path == "/v1/acquire":
            continue
        target = path.replace("{ref:.+}", model)
        (answer,) = raw(method, target, {"uri": model, "ref": model} if method == "POST" else None)
        assert answer.pop("event", None) is None, answer
        assert _depth(answer) == _depth(
            complete(method, target, {name: [{}] * bool(value) for name, value in answer.items() if _listed(value)})
        ), (method, path)


def _listed(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _depth(answer: dict[str, Any]) -> dict[str, Any]:
    """Names only: of the object, and of the objects in its lists."""
    names = {name: sorted(value[0]) if _listed(value) and value else None for name, value in answer.items()}
    # Of a root that does not answer only its name and the reason are said, so the others have no defaults.
    return {name: inner for name, inner in names.items() if name not in ("api", "roots")}


@pytest.mark.parametrize("verb", sorted(FIELDS))
def test_a_name_under_must_that_is_not_known_is_refused_by_every_verb(
    raw: Callable[..., list[dict[str, Any]]], model: str, verb: str
) -> None:
    (answer,) = raw("POST", verb, {"uri": model, "ref": model, "api": API + 1, "must": {"colour": "red"}})
    assert (answer["code"], answer["retryable"]) == (VersionMismatch.code, False)
    assert "does not know 'colour'" in answer["message"] and "update the daemon" in answer["message"]


def test_a_name_under_must_is_refused_in_a_query_too(daemon: DaemonProcess, model: str) -> None:
    connection = Connection(str(daemon.socket), 30)
    for query, code in (('must={"colour":1}&api=9', "version_mismatch"), ("api=x", "invalid_request")):
        connection._http.request("GET", "/v1/status?" + query)
        assert json.loads(connection._http.getresponse().read())["code"] == code
    connection.close()


def test_what_is_unknown_at_the_top_is_passed_over_and_logged_once(
    daemon: DaemonProcess, raw: Callable[..., list[dict[str, Any]]], model: str
) -> None:
    for _ in range(3):
        assert raw("POST", "/v1/acquire", {"uri": model, "colour": "red", "secret": "hf_x"})[-1]["event"] == "ready"
    for number in range(400):
        raw("POST", "/v1/unpin", {"ref": "absent", f"made-up-{number}": 1})
    lines = [line for line in daemon.log.read_text().splitlines() if "request.unknown_field" in line]
    assert sum("'colour'" in line for line in lines) == 1
    assert len(lines) <= 256 and "hf_x" not in daemon.log.read_text()
