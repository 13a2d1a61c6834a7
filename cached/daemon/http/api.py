"""HTTP over the unix socket: parse and authorise at the edge, call the use case, write the answer."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict
from typing import Any, TypeVar

from aiohttp import ClientError, web

from cached.daemon.acquire.cache import Cache
from cached.daemon.acquire.request import Held
from cached.daemon.http.acquire_request import Acquire, flag, number, text
from cached.daemon.http.acquiring import PROGRESS_SECONDS, Acquiring
from cached.daemon.http.admin import Admin
from cached.daemon.http.answers import answer, long_answer, unforeseen
from cached.daemon.http.inventory import Inventory
from cached.daemon.http.metrics import exposition
from cached.daemon.http.peer import peer_of
from cached.daemon.http.plans import held_body, plan_body
from cached.daemon.http.server import BODY_SECONDS
from cached.daemon.http.versions import check_query, understood
from cached.daemon.integrity.verify import Verifier
from cached.daemon.runtime.endings import seen
from cached.daemon.runtime.peer import Peer
from cached.daemon.runtime.shares import Shares
from cached.daemon.space.disk import Disk
from cached.errors import CachedError, DaemonUnavailable, InvalidRequest, NotCached
from cached.wire import MAX_REQUEST_BYTES, error_body

log = logging.getLogger("cached.api")

LOOKS = 8  # Requests at a time that search the inventory.
UNSHARED = ("/v1/acquire", "/v1/plan", "/healthz")  # These search nothing, or have their turns elsewhere.
T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """The verbs and the users they are for: the third column of `verbs` is `open` (all that reach the socket) or
    `admin`."""

    def __init__(self, cache: Cache, inventory: Inventory, verifier: Verifier) -> None:
        self._cache = cache
        self._disks = cache.disks
        self._inventory = inventory
        self._admin = Admin(cache, inventory)
        self._acquiring = Acquiring(cache, self._admin)
        self._verifier = verifier
        self._people = cache.people
        self._shares = Shares(LOOKS)
        self.verbs: tuple[tuple[str, str, str, Handler], ...] = (
            ("POST", "/v1/acquire", "open", self.acquire),
            ("POST", "/v1/plan", "open", self.plan),
            ("GET", "/v1/snapshots", "open", self.snapshots),
            ("GET", "/v1/snapshots/{ref:.+}", "open", self.show),
            ("GET", "/v1/status", "open", self.status),
            ("GET", "/v1/leases", "open", self.leases),
            ("POST", "/v1/pin", "admin", self.pin),
            ("POST", "/v1/unpin", "admin", self.unpin),
            ("POST", "/v1/remove", "admin", self.remove),
            ("POST", "/v1/gc", "admin", self.gc),
            ("POST", "/v1/verify", "admin", self.verify),
            ("GET", "/metrics", "open", self.metrics),
            ("GET", "/healthz", "open", self.healthz),
        )

    def app(self) -> web.Application:
        """Return the application with every verb, for the unix socket."""
        return self._application([verb[1] for verb in self.verbs])

    def observer_app(self) -> web.Application:
        """Return the application for TCP: only verbs that do not reveal what is cached."""
        return self._application(["/metrics", "/healthz"])

    def _application(self, paths: list[str]) -> web.Application:
        app = web.Application(client_max_size=MAX_REQUEST_BYTES)
        for method, path, rule, handler in self.verbs:
            if path in paths:
                app.router.add_route(method, path, self._guarded(method, path, rule, handler))
        return app

    def _guarded(self, method: str, path: str, rule: str, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                if rule != "open":
                    await self._people.require_admin(peer_of(request), path.removeprefix("/v1/"))
                if method == "GET" and path.startswith("/v1/"):
                    check_query(path, request.query)
                if path in UNSHARED:
                    return await handler(request)
                async with self._shares.turn(_owner(request)):
                    return await handler(request)
            except CachedError as error:
                return answer(error_body(error), error.status)
            except web.HTTPException:
                raise
            except Exception as error:
                return answer(unforeseen(path, error), 500)

        return guarded

    async def acquire(self, request: web.Request) -> web.StreamResponse:
        return await self._acquiring.answer(request, Acquire.parse(await _body(request)))

    async def plan(self, request: web.Request) -> web.StreamResponse:
        wish, peer = Acquire.parse(await _body(request)), peer_of(request)
        found = await _while_connected(request, self._cache.plan(wish.ask, await self._acquiring.caller(peer, wish)))
        if isinstance(found, Held):
            return answer(held_body(found, wish.ask))
        disk, plan = found
        return await self._long(plan_body(disk, plan, named=await self._only(peer) is None))

    async def _only(self, peer: Peer | None) -> int | None:
        """Return the uid whose snapshots alone are visible to the peer; None for administrators, who see all."""
        if await self._people.administers(peer):
            return None
        return peer.uid if peer is not None else -1

    async def snapshots(self, request: web.Request) -> web.StreamResponse:
        only = await self._only(peer_of(request))
        parts = await self._of_all(lambda disk: self._inventory.snapshots(disk, only), lambda disk, why: [])
        found = [each for part in parts for each in part]
        found.sort(key=lambda snapshot: str(snapshot["used_at"]), reverse=True)
        return await self._long({"snapshots": found})

    async def show(self, request: web.Request) -> web.StreamResponse:
        ref, only = request.match_info["ref"], await self._only(peer_of(request))
        try:
            disk, digest = await self._inventory.find(ref, only)
        except NotCached:
            if only is not None or (gone := await self._inventory.gone(ref)) is None:
                raise
            return await self._long(gone)
        return await self._long(await disk.do(self._inventory.details, disk, digest, only))

    async def status(self, request: web.Request) -> web.StreamResponse:
        return await self._long(await self._status(await self._only(peer_of(request))))

    async def _long(self, body: dict[str, Any]) -> web.Response:
        return await long_answer(body, self._inventory.threads)

    async def _status(self, only: int | None) -> dict[str, Any]:
        running = [fill for fill in self._cache.fills if only is None or only in fill.uids]
        fills = []
        for fill in running:
            fills.append({"ref": str(fill.ref), "waiters": fill.waiters, **asdict(fill.progress())})
            await asyncio.sleep(0)  # Hits are served in between.
        roots = await self._of_all(self._inventory.status, lambda disk, why: {"root": str(disk.root), "reason": why})
        return {**self._inventory.summary(roots), "fills": fills}

    async def leases(self, request: web.Request) -> web.StreamResponse:
        only = await self._only(peer_of(request))
        parts = await self._of_all(lambda disk: self._inventory.leases(disk, only), lambda disk, why: [])
        return await self._long({"leases": [each for part in parts for each in part]})

    async def _of_all(self, ask: Callable[[Disk], T], instead: Callable[[Disk, str], T]) -> list[T]:
        """Return each disk's answer, all requested at once; for a disk that fails, `instead` of it and the reason."""

        async def one(disk: Disk) -> T:
            try:
                return await disk.do(ask, disk)
            except CachedError as error:
                log.warning("disk.silent", extra={"root": str(disk.root), "why": error.message})
                return instead(disk, error.message)

        return list(await asyncio.gather(*(one(disk) for disk in self._disks)))

    async def pin(self, request: web.Request) -> web.StreamResponse:
        body, peer = await _body(request), peer_of(request)
        keep = number(body, "keep")
        return answer(await self._admin.pin(text(body, "ref"), keep, peer.uid if peer else 0))

    async def unpin(self, request: web.Request) -> web.StreamResponse:
        return answer(await self._admin.unpin(text(await _body(request), "ref")))

    async def remove(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        return answer(await self._admin.remove(text(body, "ref"), flag(body, "dry_run")))

    async def gc(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        free = number(body, "free")
        return await self._long(await self._admin.gc(None if free is None else int(free), flag(body, "dry_run")))

    async def verify(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        only = None
        if body.get("ref") is not None:
            _, only = await self._inventory.find(text(body, "ref"))
        return answer(await self._verifier.verify(only, flag(body, "deep"), flag(body, "repair")))

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text=exposition(await self._status(None)), content_type="text/plain")

    async def healthz(self, request: web.Request) -> web.StreamResponse:
        """Answer 503, and the reason, when nothing can be fetched any more; one failed disk of several is only
        mentioned."""
        problem = self._disks.problem
        text = "ok\n" if problem is None else f"degraded: {problem}\n"
        return web.Response(text=text, status=200 if self._disks.writable else 503)


async def _while_connected(request: web.Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`. Cancel it when the caller has disconnected."""
    task = asyncio.create_task(work)
    task.add_done_callback(seen)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=PROGRESS_SECONDS)
            if request.transport is None or request.transport.is_closing():
                raise DaemonUnavailable("The caller has gone.")
    finally:
        task.cancel()
    return task.result()


def _owner(request: web.Request) -> int | None:
    peer = peer_of(request)
    return peer.uid if peer is not None else -1


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        if request.content.is_eof():  # The usual case of a hit, for which a deadline would cost as much as the rest.
            body = json.loads(await request.read())
        else:
            async with asyncio.timeout(BODY_SECONDS):
                body = json.loads(await request.read())
    except TimeoutError:
        raise InvalidRequest("The request did not come to its end in time.") from None
    except (web.RequestPayloadError, ClientError, ConnectionError):
        raise InvalidRequest("The request broke off, or is malformed.") from None
    except (ValueError, RecursionError):
        raise InvalidRequest("The request is not JSON.") from None
    except web.HTTPRequestEntityTooLarge:
        raise InvalidRequest(f"The request has more than {MAX_REQUEST_BYTES:,} bytes; leave something out.") from None
    if not isinstance(body, dict):
        raise InvalidRequest("The request is not a JSON object.")
    return understood(request.path, body)
