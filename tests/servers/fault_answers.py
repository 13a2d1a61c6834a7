"""What S3, the Hub and a plain web server say of the same files, when all is well."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote
from xml.sax.saxutils import escape

from tests.servers.fault_kinds import Answer
from tests.servers.hub_state import git_sha1, is_large

PAGE = 1000
MODIFIED, MODIFIED_ISO = "Mon, 23 Nov 2026 10:00:00 GMT", "2026-11-23T10:00:00.000Z"


@dataclass
class Model:
    """One folder of files. `claims` are sizes that listings name instead of the true ones."""

    files: dict[str, bytes]
    claims: dict[str, int] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        seed = "".join(f"{name}{_sha256(data)}" for name, data in sorted(self.files.items()))
        return hashlib.sha1(seed.encode()).hexdigest()

    @functools.cached_property
    def sizes(self) -> list[tuple[str, int]]:
        """By path, in order; worked out once, for listings have many pages."""
        true = {name: len(data) for name, data in self.files.items()}
        return sorted({**true, **self.claims}.items())


@dataclass(frozen=True)
class Asked:
    method: str
    path: str  # Unquoted, without the query.
    query: Mapping[str, str]
    headers: Mapping[str, str]  # Names in lower case.


_KNOWN: dict[int, tuple[bytes, str]] = {}


def _sha256(data: bytes) -> str:
    """Worked out once for each of the latest objects, which are kept alive: an id alone may come again."""
    if id(data) not in _KNOWN:
        if len(_KNOWN) > 8:
            _KNOWN.clear()
        _KNOWN[id(data)] = data, hashlib.sha256(data).hexdigest()
    return _KNOWN[id(data)][1]


def etag(data: bytes) -> str:
    return f'"{_sha256(data)[:32]}"'


def ranged(asked: Asked, data: bytes, headers: Mapping[str, str], *, match: bool = True) -> Answer:
    """The file or the part of it that was asked for; 412 unless it is the version that was asked for."""
    said = {"Accept-Ranges": "bytes", **headers}
    if match and asked.headers.get("if-match", said["ETag"]) != said["ETag"]:
        return Answer(412, said, b"", "body")
    wanted = re.match(r"bytes=(\d+)-(\d+)", asked.headers.get("range", ""))
    if not wanted:
        return Answer(200, said, data, "body", 0, data)
    start, end = int(wanted[1]), min(int(wanted[2]) + 1, len(data))
    if start >= len(data):
        return Answer(416, {**said, "Content-Range": f"bytes */{len(data)}"}, b"", "body", 0, data)
    said["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
    return Answer(206, said, memoryview(data)[start:end], "body", start, data)


def plain(asked: Asked, models: Mapping[str, Model], *, match: bool = True) -> Answer:
    """`/files/<model>/<path>`. A GET of the first byte is how sizes and versions are found out."""
    name, _, path = asked.path.removeprefix("/files/").partition("/")
    model = models.get(name)
    stage = "probe" if asked.headers.get("range") == "bytes=0-0" else "body"
    if model is not None and path in model.claims:
        said = {"ETag": '"claimed"', "Content-Range": f"bytes 0-0/{model.claims[path]}"}
        return Answer(206, said, b"x", stage)
    if model is None or path not in model.files:
        return Answer(404, {}, b"", stage)
    data = model.files[path]
    return replace(ranged(asked, data, {"ETag": etag(data), "Last-Modified": MODIFIED}, match=match), stage=stage)


def s3(asked: Asked, models: Mapping[str, Model], *, match: bool = True) -> Answer:
    """`/<bucket>?list-type=2` and `/<bucket>/<model>/<path>`."""
    key = asked.path.strip("/").partition("/")[2]
    if not key:
        return _s3_listing(asked, models)
    name, _, path = key.partition("/")
    model = models.get(name, Model({}))
    data, claim = model.files.get(path), model.claims.get(path)
    said = {"ETag": etag(data) if data is not None else '"claimed"', "Last-Modified": MODIFIED}
    there = data is not None or claim is not None
    if asked.method == "HEAD":  # By which callers prove that they may read an empty file.
        length = len(data) if data is not None else claim
        return Answer(200, {**said, "Content-Length": str(length)}, b"", "head") if there else Answer(404, stage="head")
    if data is not None:
        return ranged(asked, data, said, match=match)
    if claim and asked.headers.get("range") == "bytes=0-0":  # By which they prove that they may read any other.
        return Answer(206, {**said, "Accept-Ranges": "bytes", "Content-Range": f"bytes 0-0/{claim}"}, b"x", "body")
    return Answer(404, {}, b"<Error><Code>NoSuchKey</Code></Error>", "body")


def _s3_listing(asked: Asked, models: Mapping[str, Model]) -> Answer:
    prefix = asked.query.get("prefix", "")
    name = prefix.partition("/")[0]
    found = models[name].sizes if name in models else []
    if prefix != f"{name}/":
        found = [(path, size) for path, size in found if f"{name}/{path}".startswith(prefix)]
    start = int(asked.query.get("continuation-token", "0"))
    items = "".join(
        f"<Contents><Key>{escape(key)}</Key><LastModified>{MODIFIED_ISO}</LastModified>"
        f"<ETag>{escape(etag(data)) if data is not None else 'claimed'}</ETag><Size>{size}</Size></Contents>"
        for key, size, data in _keys(name, found[start : start + PAGE], models)
    )
    more = start + PAGE < len(found)
    token = f"<NextContinuationToken>{start + PAGE}</NextContinuationToken>" if more else ""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{items}</ListBucketResult>"
    )
    return Answer(200, {"Content-Type": "application/xml"}, body.encode(), "list")


def _keys(
    name: str, found: list[tuple[str, int]], models: Mapping[str, Model]
) -> Iterator[tuple[str, int, bytes | None]]:
    for path, size in found:
        yield f"{name}/{path}", size, models[name].files.get(path)


def hub_api(asked: Asked, models: Mapping[str, Model], endpoint: str) -> Answer:
    """`/api/models/org/<model>/revision/…` and `…/tree/…`."""
    name, _, rest = asked.path.removeprefix("/api/models/org/").partition("/")
    model = models.get(name)
    if model is None:
        return Answer(404, {"X-Error-Code": "RepoNotFound"}, b"{}", "list")
    said = {"Content-Type": "application/json"}
    if rest.startswith("revision/"):
        info = {"_id": "0", "id": f"org/{name}", "sha": model.commit, "private": False, "gated": False, "siblings": []}
        return Answer(200, said, json.dumps(info).encode(), "list")
    listed = model.sizes
    start = int(asked.query.get("cursor", "0"))
    if start + PAGE < len(listed):
        said["Link"] = f'<{endpoint}{asked.path}?recursive=true&cursor={start + PAGE}>; rel="next"'
    page = [_hub_entry(path, size, model.files.get(path)) for path, size in listed[start : start + PAGE]]
    return Answer(200, said, json.dumps(page).encode(), "list")


def _hub_entry(path: str, size: int, data: bytes | None) -> dict[str, object]:
    oid = git_sha1(data) if data is not None else "0" * 40
    entry: dict[str, object] = {"type": "file", "path": path, "size": size, "oid": oid}
    if is_large(path, data or b""):
        entry["lfs"] = {"oid": _sha256(data) if data is not None else "0" * 64, "size": size, "pointerSize": 100}
    return entry


def hub_file(asked: Asked, models: Mapping[str, Model], link: str) -> Answer:
    """`/org/<model>/resolve/<commit>/<path>`: small files at once, large ones by a signed link."""
    repo, _, rest = asked.path.partition("/resolve/")
    name, (commit, _, path) = repo.removeprefix("/org/"), rest.partition("/")
    model = models.get(name)
    large = is_large(path, model.files.get(path, b"") if model else b"")
    stage = "link" if large or asked.method == "HEAD" else "body"
    if model is None or commit != model.commit or path not in model.files:
        return Answer(404, {"X-Error-Code": "EntryNotFound"}, b"", stage)
    data = model.files[path]
    if not large:
        said = {"X-Repo-Commit": commit, "ETag": f'"{git_sha1(data)}"'}
        return replace(ranged(asked, data, said), stage=stage)
    said = {"X-Repo-Commit": commit, "X-Linked-Etag": f'"{_sha256(data)}"', "X-Linked-Size": str(len(data))}
    return Answer(302, {**said, "Location": link.format(quote(f"{name}/{path}"))}, b"", stage)


def cdn_file(asked: Asked, models: Mapping[str, Model], signature: str) -> Answer:
    """`/cdn/<model>/<path>?Signature=…`."""
    if asked.query.get("Signature") != signature:
        return Answer(403, {}, b"<Error><Code>AccessDenied</Code></Error>", "body")
    name, _, path = asked.path.removeprefix("/cdn/").partition("/")
    if name not in models or path not in models[name].files:
        return Answer(404, {}, b"", "body")
    data = models[name].files[path]
    return ranged(asked, data, {"ETag": etag(data)})
