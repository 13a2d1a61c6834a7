"""Kept connections: what one request leaves behind is nothing that the next one takes."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from cached.sources.transport.pool import Lanes, Request
from tests.servers.listener import Listener

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nETag: listed\r\n\r\n"


class Scripted:
    """Answers the requests of each connection with these texts; after the last it is silent."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = answers
        self._listener = Listener(self._serve)
        self.connections = self._listener.connections

    def request(self) -> Request:
        return Request.of(f"{self._listener.endpoint}/file", {}, None)

    def _serve(self, client: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            for answer in self._answers:
                if not client.recv(65536):
                    return
                client.sendall(answer)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    found = Lanes()
    yield found
    found.close()


def test_a_kept_connection_ends_in_the_time_of_who_uses_it(lanes: Lanes) -> None:
    server = Scripted(ANSWER + b"ok")
    said = lanes.text(server.request(), 3600.0)
    assert said and said[1] == b"ok"
    with pytest.raises(TimeoutError):
        lanes.text(server.request(), 0.1)
    assert len(server.connections) == 1
    server.close()


def test_a_head_grants_only_what_the_judge_knows(lanes: Lanes) -> None:
    server = Scripted(ANSWER)
    assert lanes.granted(server.request(), 30.0, lambda answer: answer.headers["etag"] == "listed")
    assert not lanes.granted(server.request(), 30.0, lambda answer: answer.headers["etag"] == "other")
    server.close()
    refused = Scripted(ANSWER.replace(b"200 OK", b"403 No"))
    assert not lanes.granted(refused.request(), 30.0, lambda answer: True)
    refused.close()


def test_a_body_that_follows_a_head_is_nobodys_answer(lanes: Lanes) -> None:
    server = Scripted(ANSWER, b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
    assert lanes.granted(server.request(), 30.0, lambda answer: True)
    assert lanes.granted(server.request(), 30.0, lambda answer: True)
    assert len(server.connections) == 2
    server.close()
