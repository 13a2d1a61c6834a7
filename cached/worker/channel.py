"""A worker's end of the socket to the daemon: complete messages, blocking."""

from __future__ import annotations

import pickle
import socket
import threading
from typing import Any

from cached.worker.messages import HEADER, frame


class Channel:
    """A channel to the daemon. One thread calls `receive`; any thread may call `send`."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._file = self._socket.makefile("rb")
        self._sending = threading.Lock()

    def receive(self) -> Any:
        """Return the next message; None when the daemon is gone."""
        try:
            head = self._file.read(HEADER.size)
            if len(head) < HEADER.size:
                return None
            (length,) = HEADER.unpack(head)
            data = self._file.read(length)
        except ConnectionResetError:  # Gone without having read our last message.
            return None
        return pickle.loads(data) if len(data) == length else None

    def send(self, *messages: object) -> None:
        """Send the messages in this order, with nothing between them."""
        data = b"".join(frame(message) for message in messages)
        with self._sending:
            self._socket.sendall(data)

    def close(self) -> None:
        self._file.close()
        self._socket.close()
