"""The small HTTP client: what it takes, what it refuses."""

from __future__ import annotations

import socket
import ssl
import threading

import pytest

from cached.errors import InvalidRequest
from cached.sources.transport.http1 import Answer, Connection, MalformedAnswer, head


def talk(answer: bytes, timeout: float = 5.0) -> tuple[Connection, threading.Thread]:
    """A connection to a server that reads one request, sends `answer` and closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as client:
            client.recv(65536)
            client.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    port = listener.getsockname()[1]
    return Connection("http", "127.0.0.1", port, timeout, ssl.create_default_context()), thread


def ask(raw: bytes) -> Answer:
    connection, thread = talk(raw)
    try:
        return connection.ask("GET", "/x", "host", {})
    finally:
        connection.close()
        thread.join()


def test_a_body_comes_whole_however_it_was_cut() -> None:
    body = bytes(range(256)) * 4000
    connection, thread = talk(b"HTTP/1.1 206 Partial\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    answer = connection.ask("GET", "/x", "host", {})
    assert (answer.status, answer.length, answer.keeps) == (206, len(body), True)
    got, view = bytearray(), memoryview(bytearray(70_000))
    while len(got) < len(body):
        got += view[: connection.readinto(view)]
    assert got == body and not connection.overrun
    with pytest.raises(ConnectionResetError):
        connection.readinto(view)
    connection.close()
    thread.join()


def test_interim_answers_are_passed_over() -> None:
    assert ask(b"HTTP/1.1 103 Early\r\nLink: <x>\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n").status == 404


@pytest.mark.parametrize(
    "head",
    [
        b"SSH-2.0-OpenSSH_9\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nnocolon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nName : x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\rC: d\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A" * 300 + b": b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    ],
)
def test_what_is_not_a_clean_head_is_refused(head: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        ask(head)


@pytest.mark.parametrize(
    "head",
    [
        b"Transfer-Encoding: chunked",
        b"Content-Length: -1",
        b"Content-Length: 1e3",
        b"Content-Length: " + b"9" * 5000,
        b"A: b",
    ],
)
def test_a_length_that_is_not_a_plain_number_is_none(head: bytes) -> None:
    assert ask(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n").length is None


@pytest.mark.parametrize("said, keeps", [(b"1.1", True), (b"1.0", False), (b"1.1 close", False)])
def test_connections_are_kept_only_where_the_remote_keeps_them(said: bytes, keeps: bool) -> None:
    version, _, close = said.partition(b" ")
    extra = b"Connection: Close\r\n" if close else b""
    assert ask(b"HTTP/" + version + b" 200 OK\r\nContent-Length: 0\r\n" + extra + b"\r\n").keeps is keeps


SPLITS = ["\r\n", "\n", "\r", "\0", "\x0b", "\x0c", "\x1b", "\x7f", "\x85", "\xa0", "\u2028", "\ud800", "\u010a"]


@pytest.mark.parametrize("split", SPLITS, ids=ascii)
def test_nothing_in_a_request_can_end_its_line(split: str) -> None:
    evil = f"a{split}X: y"
    for request in (
        ("GET", "/x", "host", {"If-Match": evil}),
        ("GET", "/x", "host", {"If-Match": "a", evil: "b"}),
        ("GET", f"/x{split}", "host", {}),
        ("GET", "/x", f"host{split}", {}),
        (f"GET{split}", "/x", "host", {}),
    ):
        with pytest.raises(InvalidRequest) as caught:
            head(*request)
        assert evil not in caught.value.message


@pytest.mark.parametrize(
    "request_",
    [
        ("", "/x", "host", {}),
        ("GET", "", "host", {}),
        ("GET", "/x y", "host", {}),
        ("GET", "/x", "", {}),
        ("GET", "/x", "a b", {}),
        ("GET", "/x", "host", {"": "a"}),
        ("GET", "/x", "host", {"a b": "c"}),
        ("GET", "/x", "host", {"a:": "c"}),
        ("GET", "/x", "host", {"a": " b"}),
        ("GET", "/x", "host", {"a": "b\t"}),
    ],
    ids=str,
)
def test_a_request_has_the_form_of_one(request_: tuple[str, str, str, dict[str, str]]) -> None:
    with pytest.raises(InvalidRequest):
        head(*request_)


def test_a_request_that_is_refused_sends_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = Connection("http", "127.0.0.1", listener.getsockname()[1], 5.0, ssl.create_default_context())
        with listener.accept()[0] as client:
            with pytest.raises(InvalidRequest):
                connection.ask("GET", "/x", "host", {"A": "b\n\nGET /y HTTP/1.1"})
            connection.close()
            assert client.recv(1) == b""


def test_blanks_tabs_and_nothing_may_stand_in_a_value() -> None:
    wanted = b"GET /x?a=%2F HTTP/1.1\r\nHost: h:1\r\nA: b \tc\r\nB: \r\n\r\n"
    assert head("GET", "/x?a=%2F", "h:1", {"A": "b \tc", "B": ""}) == wanted


def test_silence_ends_in_a_time_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = Connection("http", "127.0.0.1", listener.getsockname()[1], 0.1, ssl.create_default_context())
        with pytest.raises(TimeoutError):
            connection.ask("GET", "/x", "host", {})
        connection.close()


def test_a_kept_connection_takes_the_time_out_of_who_uses_it_next() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = Connection("http", "127.0.0.1", listener.getsockname()[1], 3600.0, ssl.create_default_context())
        connection.within(0.1)
        with pytest.raises(TimeoutError):
            connection.ask("GET", "/x", "host", {})
        connection.close()
