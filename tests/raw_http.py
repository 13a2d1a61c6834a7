"""The daemon's socket, spoken to byte by byte: what no client of ours would say."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any

from tests.daemon_process import DaemonProcess


def connect(daemon: DaemonProcess) -> socket.socket:
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    raw.settimeout(60)
    raw.connect(str(daemon.socket))
    return raw


def ask(daemon: DaemonProcess, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
    """The status and the answer's JSON."""
    with connect(daemon) as raw:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        raw.sendall(head.encode() + body)
        answer = http.client.HTTPResponse(raw)
        answer.begin()
        return answer.status, json.loads(answer.read())
