"""A stub of the Hugging Face Hub that the real `hf download` and `snapshot_download` accept.

It listens twice: the Hub at `endpoint` (127.0.0.1) and its content network at `cdn` (another port, under the name
localhost), to which large files are redirected with a signed link.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Mapping
from urllib.parse import quote, unquote

from aiohttp import web

from tests.servers.hub_state import FREE, Failure, Repository, Seen, git_sha1, is_large, refusal
from tests.servers.loop import LoopServer

CHUNK = 1 << 18


class HubStub(LoopServer):
    """Control it from any thread:

    add_commit(repo, files, branch="main", keep=True)  → the commit; with keep, files of the last one stay
    tag(repo, name, commit) · gate(repo, *tokens) · hide(repo, *tokens)
    fail(status, times=1, part="", headers={})  answer the next requests whose path contains `part` with an error
    expire_links()     links to the content network signed so far are refused with 403
    withhold() / feed() hold every large file's bytes
    pause() / resume() hold every request · cut() / restore() refuse connections · cut_after(n) end bodies after n bytes
    requests, bytes_served, file_bytes[sha256], count(part, method=None), reset()
    page_size          entries of a tree per page
    overwritten[(repo, commit, path)] = bytes   serve other bytes than the commit's (a broken mirror)
    point(repo, path, sha256, size)  → a commit that names an object of LFS that nobody has uploaded
    tagless            answers to files name no commit, tag or size of theirs, as behind some mirrors

    Info and tree of a gated repository are everybody's, and so are its README.md and .gitattributes
    (https://github.com/huggingface/transformers/pull/26257: "all files except README.md are protected").
    """

    def __init__(self) -> None:
        super().__init__()
        self.endpoint = self.cdn = ""
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Seen] = []
        self.bytes_served = 0
        self.file_bytes: dict[str, int] = {}
        self.page_size = 1000
        self.overwritten: dict[tuple[str, str, str], bytes] = {}
        self.tagless = False
        self._blobs: dict[str, bytes] = {}
        self._known: dict[bytes, tuple[str, str]] = {}
        self._failures: list[Failure] = []
        self._signature = 0
        self._left: int | None = None
        self._running = asyncio.Event()
        self._running.set()
        self._feeding = asyncio.Event()
        self._feeding.set()
        self._lock = threading.Lock()
        self._ports = [0, 0]
        self._runners: list[web.AppRunner] = []

    # What tests call.

    def add_commit(self, repo: str, files: Mapping[str, bytes], branch: str = "main", *, keep: bool = True) -> str:
        with self._lock:
            repository = self.repositories.setdefault(repo, Repository())
            parent = repository.refs.get(branch, "")
            content = {**(repository.commits.get(parent, {}) if keep else {}), **files}
            seed = [repo, parent, len(repository.commits), sorted((p, self._hashes(d)[1]) for p, d in content.items())]
            commit = hashlib.sha1(json.dumps(seed).encode()).hexdigest()
            repository.commits[commit] = content
            repository.refs[branch] = commit
            self._blobs.update({self._hashes(data)[0]: data for data in files.values()})
            return commit

    def point(self, repo: str, path: str, sha256: str, size: int) -> str:
        """The tree names what a pointer of LFS does, which is whatever was written into it; the bytes are absent until
        somebody uploads that object. The Hub refuses to take such a push, mirrors and other forges need not."""
        commit = self.add_commit(repo, {path: b""})
        self.repositories[repo].pointers[commit, path] = sha256, size
        return commit

    def tag(self, repo: str, name: str, commit: str) -> None:
        self.repositories[repo].refs[name] = commit

    def gate(self, repo: str, *tokens: str) -> None:
        self.repositories[repo].gated = True
        self.repositories[repo].readers = frozenset(tokens)

    def hide(self, repo: str, *tokens: str) -> None:
        self.repositories[repo].private = True
        self.repositories[repo].readers = frozenset(tokens)

    def fail(self, status: int, times: int = 1, part: str = "", headers: Mapping[str, str] | None = None) -> None:
        self._failures.append(Failure(part, times, status, headers or {}))

    def expire_links(self) -> None:
        self._signature += 1

    def pause(self) -> None:
        self.loop.call_soon_threadsafe(self._running.clear)

    def resume(self) -> None:
        self.loop.call_soon_threadsafe(self._running.set)

    def withhold(self) -> None:
        """Answer everything, and send no byte of any large file."""
        self.loop.call_soon_threadsafe(self._feeding.clear)

    def feed(self) -> None:
        self.loop.call_soon_threadsafe(self._feeding.set)

    def cut(self) -> None:
        self.run(self.shut())

    def restore(self) -> None:
        self._left = None
        self.run(self.open())

    def cut_after(self, count: int) -> None:
        self._left = count

    def count(self, part: str = "", method: str | None = None) -> int:
        return sum(part in seen.path and method in (None, seen.method) for seen in self.requests)

    def reset(self) -> None:
        """Forget what was counted, and what was to fail."""
        self.requests.clear()
        self.file_bytes.clear()
        self._failures.clear()
        self.bytes_served = 0
        self._left = None
        self.tagless = False

    def _hashes(self, data: bytes) -> tuple[str, str]:
        """sha256 and git's sha1, worked out once: models are large, and requests for them many."""
        if data not in self._known:
            self._known[data] = hashlib.sha256(data).hexdigest(), git_sha1(data)
        return self._known[data]

    # The servers.

    async def open(self) -> None:
        for index, (name, handler) in enumerate((("hub", self._hub), ("cdn", self._cdn))):
            application = web.Application(middlewares=[self._middleware(name)])
            application.router.add_route("*", "/{path:.*}", handler)
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", self._ports[index], reuse_address=True)
            await site.start()
            self._ports[index] = runner.addresses[0][1]
            self._runners.append(runner)
        self.endpoint = f"http://127.0.0.1:{self._ports[0]}"
        self.cdn = f"http://localhost:{self._ports[1]}"

    async def shut(self) -> None:
        while self._runners:
            await self._runners.pop().cleanup()

    def _middleware(self, server: str):  # type: ignore[no-untyped-def]
        @web.middleware
        async def middleware(request: web.Request, handler):  # type: ignore[no-untyped-def]
            headers = {name.lower(): value for name, value in request.headers.items()}
            self.requests.append(Seen(request.method, request.path, server, headers))
            await self._running.wait()
            for failure in self._failures:
                if failure.left and failure.part in request.path:
                    failure.left -= 1
                    return web.Response(status=failure.status, headers=failure.headers)
            return await handler(request)

        return middleware

    async def _hub(self, request: web.Request) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        if path.startswith("/api/models/"):
            return self._api(request, path.removeprefix("/api/models/"))
        repo, separator, rest = path.strip("/").partition("/resolve/")
        if not separator:
            return web.Response(status=404)
        revision, _, name = rest.partition("/")
        return await self._resolve(request, repo, unquote(revision), unquote(name))

    def _api(self, request: web.Request, path: str) -> web.Response:
        for word in ("/revision/", "/tree/"):
            repo, separator, rest = path.partition(word)
            if separator:
                break
        revision = unquote(rest.partition("/")[0]) or "main"
        found = self._find(request, repo, revision)
        if isinstance(found, web.Response):
            return found
        repository, commit = found
        if separator == "/tree/":
            return self._tree(request, repository, commit)
        siblings = [self._sibling(entry) for entry in self._entries(repository, commit)]
        info = {"_id": "0", "id": repo, "modelId": repo, "sha": commit, "private": repository.private, "tags": []}
        gated = "manual" if repository.gated else False
        return web.json_response({**info, "gated": gated, "downloads": 0, "likes": 0, "siblings": siblings})

    def _sibling(self, entry: Mapping[str, object]) -> dict[str, object]:
        lfs = entry.get("lfs")
        sibling: dict[str, object] = {"rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"]}
        if isinstance(lfs, dict):
            sibling["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
        return sibling

    def _entries(self, repository: Repository, commit: str) -> list[dict[str, object]]:
        files = sorted(repository.commits[commit].items())
        return [self._tree_entry(name, data, repository.pointers.get((commit, name))) for name, data in files]

    def _tree_entry(self, name: str, data: bytes, pointed: tuple[str, int] | None) -> dict[str, object]:
        sha256, oid = self._hashes(data)
        sha256, size = pointed or (sha256, len(data))
        entry: dict[str, object] = {"type": "file", "path": name, "size": size, "oid": oid}
        if pointed or is_large(name, data):
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
            entry["oid"] = git_sha1(pointer)
            entry["lfs"] = {"oid": sha256, "size": size, "pointerSize": len(pointer)}
        return entry

    def _tree(self, request: web.Request, repository: Repository, commit: str) -> web.Response:
        entries, files = self._entries(repository, commit), repository.commits[commit]
        folders = sorted({name.rpartition("/")[0] for name in files if "/" in name})
        entries = [{"type": "directory", "path": folder, "size": 0, "oid": "0" * 40} for folder in folders] + entries
        start = int(request.query.get("cursor", "0"))
        end = start + self.page_size
        headers = {}
        if end < len(entries):
            headers["Link"] = f'<{self.endpoint}{request.path}?recursive=true&cursor={end}>; rel="next"'
        return web.json_response(entries[start:end], headers=headers)

    def _find(
        self, request: web.Request, repo: str, revision: str, file: str = ""
    ) -> tuple[Repository, str] | web.Response:
        """The repository and the commit, or the Hub's refusal."""
        repository = self.repositories.get(repo)
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        allowed = repository is not None and token in repository.readers
        if repository is None or (repository.private and not allowed):
            return refusal(404 if token else 401, "RepoNotFound", "Repository not found")
        if repository.gated and file and file not in FREE and not allowed:
            return refusal(403 if token else 401, "GatedRepo", f"Access to model {repo} is restricted.")
        commit = repository.refs.get(revision, revision)
        matches = [known for known in repository.commits if len(commit) >= 7 and known.startswith(commit)]
        if len(matches) != 1:
            return refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, matches[0]

    async def _resolve(self, request: web.Request, repo: str, revision: str, name: str) -> web.StreamResponse:
        found = self._find(request, repo, revision, name)
        if isinstance(found, web.Response):
            return found
        repository, commit = found
        data = repository.commits[commit].get(name)
        if data is None or (commit, name) in repository.pointers:
            return refusal(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        headers = {"Accept-Ranges": "bytes"} if self.tagless else {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if not is_large(name, data):
            data = self.overwritten.get((repo, commit, name), data)
            tag = {} if self.tagless else {"ETag": f'"{self._hashes(data)[1]}"'}
            return await self._send(request, data, {**headers, **tag})
        sha256, oid = self._hashes(data)
        if not self.tagless:
            headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(data)), "ETag": f'"{oid}"'}
        file = quote(f"{repo}@{commit}@{name}", safe="")
        headers["Location"] = f"{self.cdn}/{sha256}?file={file}&Signature=s{self._signature}"
        return web.Response(status=302, headers=headers, text="Found. Redirecting")

    async def _cdn(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("Signature") != f"s{self._signature}":
            return web.Response(status=403, text="<Error><Code>AccessDenied</Code></Error>")
        if "Authorization" in request.headers:
            # What S3 says to a presigned link that comes with a second way to authenticate.
            return web.Response(status=400, text="<Error><Code>InvalidArgument</Code></Error>")
        sha256 = request.path.strip("/")
        repo, commit, name = request.query["file"].split("@", 2)
        data = self.overwritten.get((repo, commit, name), self._blobs[sha256])
        return await self._send(request, data, {"Accept-Ranges": "bytes", "ETag": f'"{sha256}"'}, sha256)

    async def _send(
        self, request: web.Request, data: bytes, headers: Mapping[str, str], sha256: str = ""
    ) -> web.StreamResponse:
        """The body or the range that was asked for, counted as it goes out."""
        status, start, end = 200, 0, len(data)
        if request.headers.get("Range"):
            try:
                wanted = request.http_range
            except ValueError:
                return web.Response(status=416, headers={"Content-Range": f"bytes */{len(data)}"})
            start, end = min(wanted.start or 0, len(data)), min(wanted.stop or len(data), len(data))
            if start >= end:
                return web.Response(status=416, headers={"Content-Range": f"bytes */{len(data)}"})
            status = 206
            headers = {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = end - start
        response.content_type = "application/octet-stream"
        await response.prepare(request)
        if request.method != "HEAD":
            await self._body(request, response, memoryview(data)[start:end], sha256)
        return response

    async def _body(self, request: web.Request, response: web.StreamResponse, body: memoryview, sha256: str) -> None:
        for at in range(0, len(body), CHUNK):
            await self._running.wait()
            if sha256:
                await self._feeding.wait()
            piece = body[at : at + CHUNK]
            if self._left is not None:
                piece = piece[: self._left]
                self._left -= len(piece)
            self.bytes_served += len(piece)
            self.file_bytes[sha256] = self.file_bytes.get(sha256, 0) + len(piece)
            await response.write(bytes(piece))
            if self._left == 0:
                if request.transport is not None:
                    request.transport.abort()
                return
        await response.write_eof()
