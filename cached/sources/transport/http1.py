"""A minimal HTTP/1.1 (RFC 9112) for listings, and for ranged GETs whose body goes into a buffer of the caller's.

A head that is anything but plain ends the connection; a full client then finds out its meaning.
"""

from __future__ import annotations

import functools
import re
import select
import socket
import ssl
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass

from cached.errors import InvalidRequest

MAX_HEAD = 64 << 10
MAX_LINE = 4 << 10
MAX_NAME = 256
MAX_DIGITS = 18  # The limit of a length. Python refuses numbers of thousands of digits with an error of its own.
CONNECT_TIMEOUT = 10.0

_CHUNK = re.compile(rb"[0-9a-fA-F]{1,8}\Z")
_STATUS = re.compile(r"HTTP/1\.([01]) ([1-5][0-9]{2})(?: .*)?\Z")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_PLACE = re.compile(r"[!-~]+\Z")
_PLAIN = bytes(range(0x20, 0x7F)) + b"\t"


class MalformedAnswer(ConnectionError):
    """The bytes received are not an HTTP answer, or contradict themselves."""


class BodyTooLong(MalformedAnswer):
    """The body has more bytes than the limit."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of an answer. Header names in lower case, repeated ones joined with commas."""

    status: int
    headers: Mapping[str, str]
    length: int | None  # Content-Length, or None when the body's end is marked in another way.
    keeps: bool  # The connection may carry another request once the body has been read.

    @property
    def chunked(self) -> bool:
        return self.headers.get("transfer-encoding", "").lower() == "chunked" and "content-length" not in self.headers


class Connection:
    """One connection, used by one thread at a time. Blocking calls end after `timeout` seconds without a byte."""

    def __init__(self, scheme: str, host: str, port: int, timeout: float, tls: ssl.SSLContext) -> None:
        raw = socket.create_connection((host, port), min(timeout, CONNECT_TIMEOUT))
        self.peer = str(raw.getpeername()[0])
        self._timeout, self._whole = 0.0, 0
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if scheme == "https":
                raw = tls.wrap_socket(raw, server_hostname=host)
            else:
                raw.settimeout(None)
                self._whole = socket.MSG_WAITALL
            self._socket = raw
            self._poll = select.poll()  # select() itself ends at descriptor 1023.
            self._poll.register(raw, select.POLLIN)
            self.within(timeout)
        except BaseException:
            raw.close()
            raise
        self._head = bytearray(MAX_HEAD)
        self._rest = memoryview(b"")  # Bytes of the body that were received together with the head.

    def within(self, timeout: float) -> None:
        """Set the time-out: from now on blocking calls end after so many seconds without a byte."""
        if timeout == self._timeout:
            return
        self._timeout = timeout
        if not self._whole:
            self._socket.settimeout(timeout)
            return
        # The kernel enforces the time-out, so that one call can fill a slice instead of polling for each part.
        limit = struct.pack("ll", int(timeout), int(timeout % 1 * 1e6) or (0 if timeout >= 1 else 1))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def close(self) -> None:
        self._socket.close()

    def ask(self, method: str, target: str, host: str, headers: Mapping[str, str]) -> Answer:
        """Send the request, and return the head of the answer. Raise ConnectionError if the remote ends it,
        TimeoutError if it is silent.

        Raise InvalidRequest, and send nothing, if a value contains a character that could end its line.
        """
        request = head(method, target, host, headers)
        try:
            self._socket.sendall(request)
            deadline = time.monotonic() + self._timeout  # Of the complete head: bytes that trickle are no answer.
            answer = self._answer(deadline)
            while answer.status < 200:  # 100 and 103 announce the real one.
                answer = self._answer(deadline)
        except BlockingIOError:
            raise TimeoutError("no answer") from None
        return answer

    def readinto(self, view: memoryview) -> int:
        """Read the next bytes of the body, as many as `view` takes unless time is up, and return their number. Raise
        ConnectionError if the body ends early, TimeoutError if nothing is received."""
        if self._rest:
            count = min(len(self._rest), len(view))
            view[:count] = self._rest[:count]
            self._rest = self._rest[count:]
            return count
        try:
            count = self._socket.recv_into(view, len(view), self._whole)
        except BlockingIOError:
            raise TimeoutError("silence") from None
        if not count:
            raise ConnectionResetError("the body ended early")
        return count

    def chunks(self, most: int, deadline: float) -> bytes:
        """Return the complete body of a chunked answer (RFC 9112, section 7.1). Raise BodyTooLong beyond `most` bytes,
        TimeoutError after the deadline."""
        body = bytearray()
        while True:
            line = self._line(deadline)
            digits = line.partition(b";")[0].strip()
            if not _CHUNK.match(digits):
                raise MalformedAnswer("no chunk")
            size = int(digits, 16)
            if not size:
                break
            if len(body) + size > most:
                raise BodyTooLong("the body is too long")
            start = len(body)
            body.extend(bytes(size))
            view = memoryview(body)
            while start < len(view):
                if time.monotonic() > deadline:
                    raise TimeoutError("a body without end")
                start += self.readinto(view[start:])
            view.release()
            if self._line(deadline):
                raise MalformedAnswer("a chunk without end")
        while self._line(deadline):  # Trailers.
            pass
        return bytes(body)

    def _line(self, deadline: float) -> bytes:
        """Return the next line, without its end."""
        while (end := bytes(self._rest).find(b"\r\n")) < 0:
            if len(self._rest) > MAX_LINE:
                raise MalformedAnswer("a line is too long")
            if time.monotonic() > deadline:
                raise TimeoutError("a body without end")
            try:
                more = self._socket.recv(MAX_LINE)
            except BlockingIOError:
                raise TimeoutError("silence") from None
            if not more:
                raise ConnectionResetError("the body ended early")
            self._rest = memoryview(bytes(self._rest) + more)
        line = bytes(self._rest[:end])
        self._rest = self._rest[end + 2 :]
        return line

    @property
    def disturbed(self) -> bool:
        """Return True if an idle connection is unusable: the server closed it, or sent unrequested bytes."""
        if self._rest or (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
            return True
        return bool(self._poll.poll(0))

    @property
    def overrun(self) -> bool:
        """Return True if bytes are left that no answer accounts for, once the body has been read."""
        return len(self._rest) > 0

    def _answer(self, deadline: float) -> Answer:
        buffer, got = self._head, len(self._rest)
        buffer[:got] = bytes(self._rest)  # `_rest` is a view of that buffer.
        while True:
            end = buffer.find(b"\r\n\r\n", 0, got)
            if end >= 0:
                break
            if got == MAX_HEAD:
                raise MalformedAnswer("the head is too long")
            if time.monotonic() > deadline:
                raise TimeoutError("a head without end")
            count = self._socket.recv_into(memoryview(buffer)[got:])
            if not count:
                raise ConnectionResetError("closed before the answer")
            got += count
        if time.monotonic() > deadline:
            raise TimeoutError("no end of announcements")
        self._rest = memoryview(buffer)[end + 4 : got]
        return _parse(buffer[:end].decode("latin-1"))


def head(method: str, target: str, host: str, headers: Mapping[str, str]) -> bytes:
    """Return the request's head, ready to be sent. Raise InvalidRequest unless it is well-formed, in visible ASCII and
    blanks.

    Of the controls and of bytes beyond ASCII, RFC 9110 (section 5.5) allows some. But many servers take a bare LF, and
    some a bare CR or a NUL, for the end of a line, and the rest for a request of its own. Thousands of small files have
    thousands of heads: so each is checked as a whole.
    """
    values = list(headers.values())
    fits = (
        not "".join([target, *values]).encode("utf-8", "surrogatepass").translate(None, _PLAIN)
        and target
        and " " not in target
        and "\t" not in target
        and [value.strip(" \t") for value in values] == values
        and _are_names(method, host, *headers)
    )
    if not fits:
        raise InvalidRequest(
            "The request holds a character that belongs in no header and no address; check the URI and the credentials."
        )
    fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode()


@functools.lru_cache(maxsize=256)
def _are_names(method: str, host: str, *names: str) -> bool:
    """Return True if all are valid names. Cached, because the same few occur in every request."""
    return all(map(_TOKEN.match, (method, *names))) and _PLACE.match(host) is not None


def _parse(head: str) -> Answer:
    """Parse a head with few calls for each line: a model of thousands of small files has thousands of heads."""
    status, *lines = head.split("\r\n")
    match = _STATUS.match(status)
    if not match or not head.count("\r") == head.count("\n") == len(lines):
        raise MalformedAnswer("no status line, or half an end of a line")
    headers: dict[str, str] = {}
    for line in lines:
        said, colon, value = line.partition(":")
        if not colon:
            raise MalformedAnswer("a header line that is none")
        name, value = _name(said), value.strip(" \t")
        known = headers.setdefault(name, value)
        if known is not value:
            if name != "content-length":
                headers[name] = f"{known}, {value}"
            elif known != value:
                raise MalformedAnswer("two lengths")
    said = headers.get("content-length", "")
    plain = said.isdecimal() and len(said) <= MAX_DIGITS and "transfer-encoding" not in headers
    keeps = match[1] == "1" and "close" not in headers.get("connection", "").lower()
    return Answer(int(match[2]), headers, int(said) if plain else None, keeps)


@functools.lru_cache(maxsize=256)
def _name(said: str) -> str:
    """Return the name in lower case. Cached, because the same few occur in every answer."""
    if len(said) > MAX_NAME or not _TOKEN.match(said):
        raise MalformedAnswer("no name of a header")
    return said.lower()
