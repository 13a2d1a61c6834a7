"""Requests of somebody who keeps to no rules: bytes on the daemon's socket, and whatever comes back."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

MOST = 4 << 20  # Bytes of an answer that are read.


def connect(path: str, seconds: float = 5.0) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(seconds)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def request(verb: str, body: object = None) -> bytes:
    if body is None:
        return f"GET {verb} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    data = json.dumps(body).encode()
    head = f"POST {verb} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def ask(path: str, verb: str, body: object = None, seconds: float = 10.0) -> bytes:
    """The whole answer, or as much of it as came within that time."""
    answer, deadline = b"", time.monotonic() + seconds
    with connect(path, seconds) as connection:
        connection.sendall(request(verb, body))
        while len(answer) < MOST and (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            try:
                part = connection.recv(1 << 16)
            except TimeoutError:
                break
            if not part:
                break
            answer += part
    return answer


def abandon(path: str, verb: str, body: object, seconds: float) -> None:
    """Ask, and leave after so long."""
    with connect(path) as connection:
        connection.sendall(request(verb, body))
        time.sleep(seconds)


def last(answer: bytes) -> dict[str, Any]:
    """The last line of an answer that is an object; empty when there is none."""
    for line in reversed(answer.splitlines()):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    return {}
