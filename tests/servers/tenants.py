"""An S3 in the test's own process where the keys choose the namespace, and that is no kinder than it must be.

* Keys belong to tenants, and the same bucket name is another bucket for another tenant, as in Ceph
  (https://docs.ceph.com/en/latest/radosgw/multitenancy/), MinIO's and Wasabi's accounts, and AWS's partitions.
* A bare LF ends a line of a head, as Go's net/http reads it (RFC 9112, section 2.2, allows it), and connections are
  kept, so that one answer too many is read by whoever uses the connection next.
* A bucket may have pages without an end, and objects that are larger than any disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from urllib.parse import parse_qsl, unquote
from xml.sax.saxutils import escape

from tests.servers.stream import StreamServer

_KEY = re.compile(r"Credential=([^/]+)/")
_MODIFIED = "2026-11-23T10:00:00.000Z"
_SLICE = b"\0" * (64 << 10)


@dataclass(frozen=True)
class Huge:
    """An object of so many bytes, which come at 640 KB/s."""

    size: int


Content = bytes | Huge


class Tenants(StreamServer):
    """`add(access_key, tenant)` makes a key known: whoever shows it is that tenant. Signatures are not checked, so a
    key is a secret here. `put("", …)` is for everybody, unsigned too.

    body_bytes    bytes of objects that were sent, but for huge ones      requests    (method, path, access key)
    endless       buckets (of everybody) whose listings never end         page_size   keys of a page
    """

    LIMIT = 1 << 20

    def __init__(self) -> None:
        super().__init__()
        self.body_bytes = 0
        self.requests: list[tuple[str, str, str]] = []
        self.endless: set[str] = set()
        self.page_size = 1000
        self._tenants: dict[str, str] = {}
        self._buckets: dict[tuple[str, str], dict[str, Content]] = {}
        self._tags: dict[bytes, str] = {}

    def add(self, access_key: str, tenant: str) -> dict[str, str]:
        """The variables that make a process that tenant."""
        self._tenants[access_key] = tenant
        return {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": "secret"}

    def put(self, tenant: str, bucket: str, key: str, data: Content) -> None:
        self._buckets.setdefault((tenant, bucket), {})[key] = data

    def rename(self, tenant: str, bucket: str, name: str) -> None:
        self._buckets[tenant, name] = self._buckets.pop((tenant, bucket), {})

    def reset(self) -> None:
        """Count from zero again."""
        self.body_bytes = 0
        self.requests.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await _head(reader):
                await self._answer(writer, *head)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, ValueError):
            pass  # It left, or sent something that is no request.
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, method: str, target: str, headers: Mapping[str, str]) -> None:
        path, _, query = target.partition("?")
        bucket, _, key = unquote(path).strip("/").partition("/")
        found = _KEY.search(headers.get("authorization", ""))
        access_key = found[1] if found else ""
        self.requests.append((method, unquote(path), access_key))
        if access_key and access_key not in self._tenants:
            return _write(writer, 403, {}, b"<Error><Code>InvalidAccessKeyId</Code></Error>", method)
        objects = self._objects(self._tenants.get(access_key, ""), bucket)
        if objects is None:
            code = (404, b"NoSuchBucket") if access_key else (403, b"AccessDenied")
            return _write(writer, code[0], {}, b"<Error><Code>%s</Code></Error>" % code[1], method)
        if not key:
            return _write(writer, 200, _XML, self._listing(bucket, objects, dict(parse_qsl(query))), method)
        if key not in objects:
            return _write(writer, 404, {}, b"<Error><Code>NoSuchKey</Code></Error>", method)
        return await self._object(writer, method, headers, objects[key])

    def _objects(self, tenant: str, bucket: str) -> dict[str, Content] | None:
        """The tenant's own bucket comes before one of everybody's."""
        if bucket in self.endless:
            return {}
        own = self._buckets.get((tenant, bucket))
        return own if own is not None else self._buckets.get(("", bucket))

    def _listing(self, bucket: str, objects: Mapping[str, Content], query: Mapping[str, str]) -> bytes:
        prefix, start = query.get("prefix", ""), int(query.get("continuation-token", "0"))
        end = start + self.page_size
        names: list[tuple[str, Content]]
        if bucket in self.endless:
            names, more = [(f"{prefix}{number:012}", b"x") for number in range(start, end)], True
        else:
            below = sorted(item for item in objects.items() if item[0].startswith(prefix))
            names, more = below[start:end], end < len(below)
        token = f"<NextContinuationToken>{end}</NextContinuationToken>" if more else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{''.join(self._items(names))}</ListBucketResult>"
        ).encode()

    def _items(self, names: list[tuple[str, Content]]) -> Iterator[str]:
        for key, data in names:
            size = data.size if isinstance(data, Huge) else len(data)
            yield (
                f"<Contents><Key>{escape(key)}</Key><LastModified>{_MODIFIED}</LastModified>"
                f"<ETag>{escape(self._tag(data))}</ETag><Size>{size}</Size></Contents>"
            )

    def _tag(self, data: Content) -> str:
        if isinstance(data, Huge):
            return f'"huge-{data.size}"'
        if data not in self._tags:
            self._tags[data] = hashlib.md5(data).hexdigest()
        return f'"{self._tags[data]}"'

    async def _object(
        self, writer: asyncio.StreamWriter, method: str, headers: Mapping[str, str], data: Content
    ) -> None:
        said = {"ETag": self._tag(data), "Last-Modified": "Mon, 23 Nov 2026 10:00:00 GMT", "Accept-Ranges": "bytes"}
        if headers.get("if-match", said["ETag"]) != said["ETag"]:
            return _write(writer, 412, said, b"", method)
        size = data.size if isinstance(data, Huge) else len(data)
        wanted = re.match(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        start, end = (int(wanted[1]), min(int(wanted[2] or size) + 1, size)) if wanted else (0, size)
        if wanted:
            if start >= size:
                return _write(writer, 416, {**said, "Content-Range": f"bytes */{size}"}, b"", method)
            said["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        status = 206 if wanted else 200
        if isinstance(data, Huge):
            _write(writer, status, said, b"", method, length=end - start)
            return await _pour(writer, end - start) if method == "GET" else None
        if method == "GET":
            self.body_bytes += end - start
        return _write(writer, status, said, data[start:end], method)


_XML = {"Content-Type": "application/xml"}


async def _head(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str]] | None:
    """Method, target and headers; None at the end. Lines end with LF, whatever is before it."""
    lines: list[str] = []
    while (line := (await reader.readline()).decode("latin-1")).rstrip("\r\n") or not lines:
        if not line:
            return None
        if line.strip():
            lines.append(line.rstrip("\r\n"))
    method, target, _ = lines[0].split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    await reader.readexactly(int(headers.get("content-length", "0")))
    return method, target, headers


def _write(
    writer: asyncio.StreamWriter,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    method: str,
    length: int | None = None,
) -> None:
    said = {**headers, "Date": formatdate(usegmt=True), "Content-Length": len(body) if length is None else length}
    lines = [f"HTTP/1.1 {status} -", *(f"{name}: {value}" for name, value in said.items())]
    writer.write("\r\n".join([*lines, "", ""]).encode() + (body if method != "HEAD" else b""))


async def _pour(writer: asyncio.StreamWriter, count: int) -> None:
    while count > 0 and not writer.is_closing():
        writer.write(_SLICE[:count])
        count -= len(_SLICE)
        await writer.drain()
        await asyncio.sleep(0.1)  # The speed of the object.
