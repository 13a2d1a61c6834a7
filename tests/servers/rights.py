"""An S3 and a GCS in front of others that believe everybody: who may list, and who may read which objects, are two
rights, and keys may choose the namespace.

with Moto() as s3, GuardedS3(s3.endpoint) as guarded:
    guarded.allow("AKIAB", lists=["models/"], reads=["models/team/b/"])      bucket/prefix of each
    guarded.allow("AKIAB", lists=["models/"], reads=["models/"], heads_only=["models/locked/"])
    guarded.tenant("AKIAB", models="models-of-b")          its bucket `models` is really another
    guarded.hold("AKIAA", "models/a/weights") / guarded.let_go()       no answer to these requests meanwhile
    guarded.requests       (access key, method, bucket/key) of all that came; "" is nobody's key
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field, replace
from urllib.parse import unquote

from aiohttp import web

from tests.servers.front import Front

_KEY = re.compile(r"Credential=([^/]+)/")
_LISTING = re.compile(r"/storage/v1/b/([^/]+)/o\Z")
_OBJECT = re.compile(r"(?:/download)?/storage/v1/b/([^/]+)/o/(.+)\Z")


@dataclass(frozen=True)
class Rights:
    """Prefixes of `bucket/key`.

    Listing is s3:ListBucket, reading is s3:GetObject, and the one does not give the other
    (https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html, "Permissions"). `heads_only`: encrypted with a
    key of KMS that this caller may not use; a GET wants kms:Decrypt, a HEAD does not
    (https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingKMSEncryption.html).
    """

    lists: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    heads_only: tuple[str, ...] = ()
    buckets: dict[str, str] = field(default_factory=dict)


class Guarded(Front):
    """Everybody may do nothing, unless `allow` said otherwise."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.requests: list[tuple[str, str, str]] = []
        self._rights: dict[str, Rights] = {}
        self._held: tuple[str, str] | None = None
        self._let_go = asyncio.Event()

    def allow(self, who: str, lists: list[str], reads: list[str], heads_only: list[str] | None = None) -> None:
        """From now on, in place of what was said before. `who` is "" for those without a key."""
        said = {"lists": tuple(lists), "reads": tuple(reads), "heads_only": tuple(heads_only or ())}
        self._rights[who] = replace(self._of(who), **said)

    def hold(self, who: str, name: str) -> None:
        """`name` is `bucket/key`."""
        self._held = who, name

    def let_go(self) -> None:
        self.loop.call_soon_threadsafe(self._let_go.set)

    def routes(self) -> list[web.RouteDef]:
        return []

    def _of(self, who: str) -> Rights:
        return self._rights.get(who, Rights())


class GuardedS3(Guarded):
    def tenant(self, who: str, **buckets: str) -> None:
        """As Ceph's tenants have it (https://docs.ceph.com/en/latest/radosgw/multitenancy/): the key says whose bucket
        of that name is meant."""
        self._rights[who] = replace(self._of(who), buckets=dict(buckets))

    async def meet(self, request: web.Request) -> web.StreamResponse:
        found = _KEY.search(request.headers.get("Authorization", ""))
        who = found[1] if found else ""
        bucket, _, key = unquote(request.raw_path.partition("?")[0]).lstrip("/").partition("/")
        self.requests.append((who, request.method, f"{bucket}/{key}"))
        if (who, f"{bucket}/{key}") == self._held:
            await self._let_go.wait()
        rights = self._of(who)
        name = f"{bucket}/{key or request.query.get('prefix', '')}"
        if key and request.method != "HEAD" and name.startswith(rights.heads_only or ("\0",)):
            return _denied(request)
        if not name.startswith((rights.reads if key else rights.lists) or ("\0",)):
            return _denied(request)
        real = rights.buckets.get(bucket, bucket)
        answer = await self.forward(request, f"/{real}{request.raw_path.removeprefix(f'/{bucket}')}")
        if key and answer.status == 404 and not name.startswith(rights.lists or ("\0",)):
            return _denied(request)  # Who may not list is not told what is absent: 403 (the same page).
        return answer


class GuardedGcs(Guarded):
    """Listing is storage.objects.list, reading (metadata too) is storage.objects.get
    (https://cloud.google.com/storage/docs/access-control/iam-json). `who` is the token, "" without."""

    async def meet(self, request: web.Request) -> web.StreamResponse:
        who = request.headers.get("Authorization", "").removeprefix("Bearer ")
        path, rights = request.raw_path.partition("?")[0], self._of(who)
        listing, read = _LISTING.match(path), _OBJECT.match(path)
        if listing:
            allowed = f"{listing[1]}/{request.query.get('prefix', '')}".startswith(rights.lists or ("\0",))
        else:
            allowed = bool(read and f"{read[1]}/{unquote(read[2])}".startswith(rights.reads or ("\0",)))
        self.requests.append((who, request.method, unquote(path)))
        if not allowed:
            return web.json_response({"error": {"code": 403 if who else 401}}, status=403 if who else 401)
        return await self.forward(request)


def _denied(request: web.Request) -> web.Response:
    """A HEAD is told a status and nothing else."""
    body = (
        "" if request.method == "HEAD" else "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    )
    return web.Response(status=403, text=body, content_type="application/xml")
