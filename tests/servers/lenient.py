"""An S3 server as lenient as the ones that are out there: a bare LF ends a line, and requests may be pipelined.

RFC 9112, section 2.2: a recipient MAY take a single LF for the end of a line; Go's net/textproto does, and with it
MinIO, SeaweedFS, Traefik and Caddy. What slips a bare LF into a header has sent a request of its own.
"""

from __future__ import annotations

import hashlib
import re
import socket
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.servers.listener import Listener

_KEY = re.compile(r"Credential=([^/]+)/")
_DATE = "Mon, 23 Nov 2026 10:00:00 GMT"


@dataclass(frozen=True)
class Seen:
    """One request: on which connection, of whose key ("" is nobody's), and what it asks for."""

    connection: int
    key: str
    line: str


@dataclass
class LenientS3:
    """`objects` by "/bucket/key"; `readers` names who may read a bucket, by access key; others are for everybody."""

    objects: dict[str, bytes] = field(default_factory=dict)
    readers: dict[str, set[str]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._listener = Listener(self._serve)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    @property
    def endpoint(self) -> str:
        return self._listener.endpoint

    def _serve(self, client: socket.socket, number: int) -> None:
        rest = b""
        try:
            while True:
                while not (end := re.search(rb"\r?\n\r?\n", rest)):
                    more = client.recv(65536)
                    if not more:
                        return
                    rest += more
                head, rest = rest[: end.start()].decode("latin-1"), rest[end.end() :]
                client.sendall(self._answer(number, re.split(r"\r?\n", head)))
        except OSError:
            pass
        finally:
            client.close()

    def _answer(self, number: int, lines: list[str]) -> bytes:
        method, target, _ = lines[0].split(" ")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        match = _KEY.search(fields.get("authorization", ""))
        key = match[1] if match else ""
        self.seen.append(Seen(number, key, lines[0]))
        path, _, query = target.partition("?")
        bucket = path.split("/")[1]
        if bucket in self.readers and key not in self.readers[bucket]:
            return _head(403, 0)
        if "list-type=2" in query:
            body = self._listing(bucket)
            return _head(200, len(body)) + body
        if path not in self.objects:
            return _head(404, 0)
        data = self.objects[path]
        said = {"ETag": f'"{hashlib.md5(data).hexdigest()}"', "Last-Modified": _DATE}
        if at := re.match(r"bytes=(\d+)-(\d+)", fields.get("range", "")):
            start, stop = int(at[1]), int(at[2]) + 1
            said["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            return _head(206, stop - start, said) + data[start:stop]
        return _head(200, len(data), said) + (b"" if method == "HEAD" else data)

    def _listing(self, bucket: str) -> bytes:
        items = "".join(
            f"<Contents><Key>{path.removeprefix(f'/{bucket}/')}</Key><Size>{len(data)}</Size>"
            f"<ETag>&quot;{hashlib.md5(data).hexdigest()}&quot;</ETag>"
            "<LastModified>2026-11-23T10:00:00.000Z</LastModified></Contents>"
            for path, data in self.objects.items()
            if path.startswith(f"/{bucket}/")
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{items}</ListBucketResult>".encode()


def _head(status: int, length: int, said: dict[str, str] | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} -", f"Content-Length: {length}", f"Date: {_DATE}"]
    lines += [f"{name}: {value}" for name, value in (said or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode()
