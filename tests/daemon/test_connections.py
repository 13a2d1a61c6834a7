"""Connections: whatever the other side leaves undone, or sends, they end, and nobody's keep others out."""

from __future__ import annotations

import http.client
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cached import CachedError
from tests.daemon_process import DaemonProcess
from tests.people import Person
from tests.raw_http import ask, connect
from tests.waiting import until

Model = Callable[..., Path]
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
DEADLINES = (
    "import cached.daemon.http.server as server; "
    "server.HEAD_SECONDS, server.IDLE_SECONDS, server.UNREAD_SECONDS = 0.5, 1.0, 1.0; "
    "server._OPTIONS['keepalive_timeout'] = 1.0; "
    "import cached.daemon.http.api as api; api.BODY_SECONDS = 0.5; "
    "import sys; from cached.cli.main import main; sys.exit(main(sys.argv[1:]))"
)


@pytest.fixture
def hasty(daemon: DaemonProcess, tmp_path: Path) -> DaemonProcess:
    """Whose deadlines are short, so that tests see them pass."""
    (tmp_path / "models").mkdir()
    program = tmp_path / "hasty.py"
    program.write_text(DEADLINES)
    return daemon.start(
        ("sh", "-c", f'shift; exec "$0" {program} "$@"', sys.executable),
        protocols=["file"],
        file_roots=[str(tmp_path / "models")],
    )


def ends(raw: socket.socket) -> bytes:
    """What comes until the daemon ends the connection."""
    found = b""
    while True:
        try:
            data = raw.recv(1 << 16)
        except ConnectionResetError:
            return found
        if not data:
            return found
        found += data


def said(daemon: DaemonProcess) -> list[str]:
    """Lines of the log, those of the start aside."""
    starting = ("event=workers.", "event=daemon.", "event=store.")
    return [line for line in daemon.log.read_text().splitlines() if not any(word in line for word in starting)]


def quiet(daemon: DaemonProcess) -> None:
    assert "Traceback" not in daemon.log.read_text()
    assert "api.bug" not in daemon.log.read_text()


@pytest.mark.parametrize(
    ("sent", "events"),
    [
        (b"", 1),
        (b"GET /heal", 1),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: ", 1),
        (b"POST /v1/acquire HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{", 0),
        (b'POST /v1/acquire HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"a":\r\n', 0),
        (b"POST /v1/gc HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", 0),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n", 0),
        (HEALTH, 0),
        (HEALTH + b"GET /heal", 0),
    ],
    ids=[
        "silence",
        "half a line",
        "half a head",
        "half a body",
        "half in chunks",
        "expected",
        "unwanted",
        "idle",
        "next",
    ],
)
def test_what_is_left_undone_ends_by_itself(hasty: DaemonProcess, sent: bytes, events: int) -> None:
    with connect(hasty) as raw:
        raw.sendall(sent)
        ends(raw)
    assert hasty.log.read_text().count("event=connection.late") == events
    quiet(hasty)


def test_bytes_that_trickle_do_not_put_off_the_end(hasty: DaemonProcess) -> None:
    with connect(hasty) as raw, pytest.raises(OSError):  # It may be either end that notices.
        for number in range(100_000):
            raw.sendall(b"GET /healthz HTTP/1.1\r\nX: " if not number else b"x")
            raw.settimeout(0.05)
            try:
                if not raw.recv(1):
                    raise ConnectionResetError
            except TimeoutError:
                pass


def test_an_answer_that_nobody_reads_is_given_up(hasty: DaemonProcess) -> None:
    with connect(hasty) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(0.2)
        try:
            while True:
                raw.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
        except OSError:
            pass
        until(lambda: "event=connection.unread" in hasty.log.read_text())


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
        b"GET /healthz HTTP/1.1\r\n" + b"X: " + b"x" * (1 << 20) + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
        b"GET /" + b"x" * (1 << 20) + b" HTTP/1.1\r\n\r\n",
        b"POST /v1/acquire HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"POST /v1/acquire HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/acquire HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
        b"POST /v1/acquire HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
        b"POST /v1/acquire HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + b"x" * 100_000,
        b"GET /healthz HTTP/9.9\r\n\r\n",
    ],
    ids=["zeros", "tls", "long header", "many headers", "long line", "chunk", "length", "two lengths", "huge length",
         "encoding", "upgrade", "version"],
)  # fmt: skip
def test_what_is_no_request_of_ours_ends_the_connection_in_a_line_at_most(hasty: DaemonProcess, sent: bytes) -> None:
    before = len(said(hasty))
    with connect(hasty) as raw:
        try:
            raw.sendall(sent)
        except OSError:
            pass
        answer = ends(raw)
    assert answer[9:12] in (b"", b"200", b"400", b"404", b"505")
    assert len(said(hasty)) <= before + 1
    quiet(hasty)


def test_a_caller_that_goes_in_the_middle_of_its_body_leaves_no_trace(hasty: DaemonProcess) -> None:
    for _ in range(5):
        with connect(hasty) as raw:
            raw.sendall(b"POST /v1/acquire HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
    assert ask(hasty, "GET", "/v1/status")[0] == 200
    quiet(hasty)


def test_many_requests_on_one_connection_are_answered_in_order(hasty: DaemonProcess) -> None:
    with connect(hasty) as raw:
        raw.sendall(HEALTH * 500)
        file = raw.makefile("rb")
        for _ in range(500):
            assert file.readline() == b"HTTP/1.1 200 OK\r\n"
            http.client.parse_headers(file)
            assert file.read(3) == b"ok\n"


@pytest.fixture
def node(reachable: DaemonProcess) -> DaemonProcess:
    """One that every user can reach."""
    reachable.config(workers=1)
    return reachable


def crowd(daemon: DaemonProcess, count: int, sent: bytes) -> tuple[None, list[socket.socket]]:
    found = []
    for _ in range(count):
        raw = connect(daemon)
        raw.sendall(sent)
        found.append(raw)
    return None, found


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")
def test_one_user_has_so_many_connections_and_others_are_let_in(node: DaemonProcess) -> None:
    node.start(max_connections_per_user=20)
    hostile, other = Person(node, 4001), Person(node, 4002)
    half = b"POST /v1/acquire HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{"
    with hostile._child(lambda: crowd(node, 20, half)):
        with pytest.raises(CachedError, match=r"Too many of your connections .* close some") as raised:
            hostile.call("GET", "/v1/status")
        assert raised.value.code == "overloaded" and raised.value.retryable
        assert other.call("GET", "/v1/status")["healthy"]
        assert node.status()["healthy"]  # An administrator's are not counted.


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")
def test_silent_connections_make_room_for_those_of_the_same_user_that_ask(node: DaemonProcess) -> None:
    node.start(max_connections_per_user=20)
    person = Person(node, 4001)
    with person._child(lambda: crowd(node, 20, b"")):

        def comes_in() -> bool:
            try:
                return bool(person.call("GET", "/v1/status")["healthy"])
            except CachedError:
                return False

        until(comes_in)


def test_a_thousand_silent_connections_leave_descriptors_for_files_and_callers(
    node: DaemonProcess, make_model: Model, tmp_path: Path
) -> None:
    node.start(("prlimit", "--nofile=400:400"), protocols=["file"], file_roots=[str(tmp_path / "models")])
    node.workers()
    _, silent = crowd(node, 1000, b"")
    with node.client(timeout=60) as client:
        assert not client.pull(f"file://{make_model()}").hit
    assert node.process
    assert len(os.listdir(f"/proc/{node.process.pid}/fd")) < 300
    for each in silent:
        each.close()
    quiet(node)


def test_where_the_port_is_open_each_address_has_a_share_and_idle_ones_make_room(node: DaemonProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    node.start(listen=f"127.0.0.1:{port}")
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]

    def answered() -> bool:
        with socket.create_connection(("127.0.0.1", port), 60) as raw:
            raw.sendall(HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            return ends(raw).startswith(b"HTTP/1.1 200")

    until(answered)
    for each in silent:
        each.close()
    assert node.status()["healthy"]
