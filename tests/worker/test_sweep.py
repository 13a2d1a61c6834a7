"""A worker closes what nobody uses any more by itself."""

from __future__ import annotations

import socket
import ssl
import threading

import pytest

from cached.sources.transport import idle
from cached.sources.transport.http1 import Connection
from cached.sources.transport.idle import Idle
from cached.worker import process


def test_an_idle_connection_is_closed_though_nobody_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SWEPT_EVERY", 0.01)
    monkeypatch.setattr(idle, "KEPT_SECONDS", 0.05)
    kept, end = Idle(), threading.Event()
    thread = threading.Thread(target=process.sweep, args=(end,))
    thread.start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = Connection("http", "127.0.0.1", listener.getsockname()[1], 5.0, ssl.create_default_context())
        with listener.accept()[0] as theirs:
            theirs.settimeout(30)
            kept.give("here", connection)
            assert theirs.recv(1) == b""
    end.set()
    thread.join()


def test_a_sweep_that_fails_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SWEPT_EVERY", 0.01)
    end, swept = threading.Event(), []

    def fail() -> None:
        swept.append(len(swept))
        if len(swept) == 2:
            end.set()
        raise OSError("no")

    monkeypatch.setattr(idle, "sweep", fail)
    process.sweep(end)
    assert swept == [0, 1]
