"""Kept connections: whose they are, which are still good, and for how long."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cached.sources.transport import idle
from cached.sources.transport.client import HttpRequest, Web
from cached.sources.transport.clients import CLIENTS
from cached.sources.transport.http1 import Connection
from cached.sources.transport.idle import KEPT, KEPT_IN_ALL, KEPT_SECONDS, Idle
from cached.sources.transport.pool import Lanes, Request
from tests.servers.lenient import LenientS3
from tests.servers.tls import contexts
from tests.sources.test_lane import ANSWER, Scripted


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("cached.sources.transport.idle.time", found)
    monkeypatch.setattr("cached.sources.transport.clients.time", found)
    return found


@pytest.fixture
def server() -> Iterator[LenientS3]:
    with LenientS3({"/pub/a": b"ok"}) as found:
        yield found


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    found = Lanes()
    yield found
    found.close()


def pair() -> tuple[Connection, socket.socket]:
    """A connection and the server's end of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        return Connection("http", "127.0.0.1", port, 5.0, ssl.create_default_context()), listener.accept()[0]


def test_a_connection_on_which_something_came_unasked_is_not_used_again(lanes: Lanes) -> None:
    server = Scripted(ANSWER + b"ok", ANSWER + b"no")
    assert lanes.text(server.request(), 5.0)
    server.connections[0].sendall(ANSWER + b"evil")
    said = lanes.text(server.request(), 5.0)
    assert said and said[1] == b"ok" and len(server.connections) == 2
    server.close()


def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    connection, theirs = pair()
    assert not connection.disturbed
    theirs.close()
    assert connection.disturbed
    connection.close()


def test_what_tls_has_already_decrypted_counts_as_well(tmp_path: Path) -> None:
    """One record of TLS may hold two answers: the socket is then empty, and the second waits in the library."""
    theirs, ours = contexts(tmp_path)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, theirs.wrap_socket(listener.accept()[0], server_side=True) as client:
            client.recv(65536)
            client.sendall(ANSWER)
            client.sendall(b"okevil")
            client.recv(1)

    threading.Thread(target=serve, daemon=True).start()
    connection = Connection("https", "localhost", listener.getsockname()[1], 5.0, ours)
    connection.ask("GET", "/x", "localhost", {})
    assert connection.readinto(memoryview(bytearray(2))) == 2 and not connection.overrun
    assert connection.disturbed
    connection.close()


def test_connections_are_kept_by_place_and_owner(lanes: Lanes, server: LenientS3) -> None:
    for owner in (None, "alice", "bob", "alice", None, "bob"):
        lanes.text(Request.of(f"{server.endpoint}/pub/a", {}, owner), 5.0)
    assert [seen.connection for seen in server.seen] == [1, 2, 3, 2, 1, 3]


def test_the_slow_lane_keeps_connections_by_owner_as_well(server: LenientS3) -> None:
    web = Web(4)
    for token in ("", "alice", "bob", "alice", "", "bob"):
        private = {"Authorization": f"Bearer {token}"} if token else {}
        with web.request(HttpRequest(f"{server.endpoint}/pub/a", private=private), 5) as answer:
            assert answer.read() == b"ok"
    assert [seen.connection for seen in server.seen] == [1, 2, 3, 2, 1, 3]
    web.close()


def test_an_answer_too_many_is_nobodys_on_the_slow_lane() -> None:
    server = Scripted(ANSWER + b"ok" + ANSWER + b"no", ANSWER + b"no")
    web, request = Web(4), server.request()
    for _ in range(2):
        with web.request(HttpRequest(f"{request.scheme}://{request.place}/file"), 5) as answer:
            assert answer.read() == b"ok"
    assert len(server.connections) == 2
    web.close()
    server.close()


def test_what_nobody_asks_again_is_closed_after_a_while(clock: Clock) -> None:
    kept = Idle()
    (old, their_old), (young, _) = pair(), pair()
    kept.give("old", old)
    clock.now += KEPT_SECONDS - 1
    kept.give("young", young)
    clock.now += 2
    assert kept.take("old") is None
    idle.sweep()
    assert their_old.recv(1) == b"" and len(kept) == 1
    assert kept.take("young") is young and len(kept) == 0
    young.close()


def test_clients_of_nobody_are_closed_after_a_while(clock: Clock, server: LenientS3) -> None:
    web = Web(4)
    with web.request(HttpRequest(f"{server.endpoint}/pub/a", private={"Authorization": "x"}), 5) as answer:
        answer.read()
        clock.now += KEPT_SECONDS + 1
        idle.sweep()  # It is in use.
        assert len(web.clients) == 1
    clock.now += KEPT_SECONDS + 1
    idle.sweep()
    assert len(web.clients) == 0
    web.close()


def test_there_is_a_bound_for_each_place_and_one_for_all() -> None:
    kept = Idle()
    pairs = [pair() for _ in range(3)]
    for connection, _ in pairs:
        kept.give("one", connection)
    for number in range(KEPT_IN_ALL - 2):
        kept.give(number, pairs[0][0])  # Which of them is the oldest is what counts.
    assert len(kept) == KEPT_IN_ALL and pairs[0][1].recv(1) == b""
    kept.close()
    assert len(kept) == 0


def test_one_place_does_not_take_all(clock: Clock) -> None:
    kept = Idle()
    pairs = [pair() for _ in range(KEPT + 1)]
    for connection, _ in pairs:
        kept.give("one", connection)
        clock.now += 0.1
    assert len(kept) == KEPT and pairs[0][1].recv(1) == b""
    kept.close()


def test_there_is_a_bound_on_clients(server: LenientS3) -> None:
    web = Web(4)
    for number in range(CLIENTS + 5):
        with web.request(HttpRequest(f"{server.endpoint}/pub/a", private={"A": str(number)}), 5) as answer:
            answer.read()
    assert len(web.clients) == CLIENTS
    web.close()


def test_a_link_that_leads_away_is_asked_apart_for_each_caller() -> None:
    """The token is not shown there, and whose it is counts all the same."""
    with LenientS3({"/pub/a": b"ok"}) as away:
        web = Web(4)
        for token in ("alice", "bob", "alice"):
            private = {"Authorization": f"Bearer {token}"}
            request = HttpRequest(f"{away.endpoint}/pub/a", private=private, endpoint="http://127.0.0.1:1/hub")
            with web.request(request, 5) as answer:
                assert answer.read() == b"ok" and "Authorization" not in answer.request.headers
        assert [seen.connection for seen in away.seen] == [1, 2, 1]
        web.close()
