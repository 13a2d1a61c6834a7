"""The response to an acquire request: one line for a hit, and progress lines while a fill runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from functools import partial

from aiohttp import web

from cached.daemon.access.callers import Caller, caller_of
from cached.daemon.acquire.cache import Cache
from cached.daemon.acquire.fill_job import Fill
from cached.daemon.http.acquire_request import Acquire
from cached.daemon.http.admin import Admin
from cached.daemon.http.answers import unforeseen
from cached.daemon.http.peer import peer_of
from cached.daemon.runtime.peer import Peer
from cached.errors import CachedError, DaemonUnavailable
from cached.model import Digest, Progress
from cached.wire import Ready, error_body, progress_line, ready_line, reply

log = logging.getLogger("cached.api")

PROGRESS_SECONDS = 0.25  # Also the heartbeat for the client, and the delay until a dead caller is noticed.
Steps = AsyncGenerator[Progress | Ready, None]
HandOut = Callable[[Ready], Awaitable[Ready]]


class Acquiring:
    def __init__(self, cache: Cache, admin: Admin) -> None:
        self._cache, self._disks, self._people, self._admin = cache, cache.disks, cache.people, admin

    async def answer(self, request: web.Request, wish: Acquire) -> web.StreamResponse:
        peer = peer_of(request)
        if wish.pins:
            await self._people.require_admin(peer, "pinning")
        caller = await self.caller(peer, wish)
        found = await self._cache.acquire(wish.ask, caller)
        if isinstance(found, Fill):
            return await self._stream(request, found, wish.abandon, partial(self._hand_out_later, wish, peer))
        line = ready_line(await self._hand_out(wish, peer, caller, found))
        return web.Response(body=line, content_type="application/x-ndjson")

    async def caller(self, peer: Peer | None, wish: Acquire) -> Caller:
        return caller_of(peer, wish.credentials, await self._people.served(peer))

    async def _hand_out_later(self, wish: Acquire, peer: Peer | None, ready: Ready) -> Ready:
        """Hand out the snapshot after a fill. The caller is determined again: the fill may have taken hours, and the
        daemon's credentials may no longer serve it."""
        return await self._hand_out(wish, peer, await self.caller(peer, wish), ready)

    async def _hand_out(self, wish: Acquire, peer: Peer | None, caller: Caller, ready: Ready) -> Ready:
        """Take the last steps before the caller receives the snapshot, and return it with its lock file: let the caller
        in, record the use and the user, and pin if requested."""
        disk, digest = self._disks.at(ready.path), Digest.parse(ready.digest)
        await self._cache.gate.let_in(disk, wish.ask.ref, digest, caller)
        ready = replace(ready, lock=await self._cache.gate.lock_file(disk, digest, caller))
        disk.uses.touch(digest)
        if peer is not None:
            disk.uses.given(digest, peer)
        if wish.pins and peer is not None:
            await self._admin.pin_on(disk, digest, wish.keep, peer.uid)
        return ready

    async def _stream(self, request: web.Request, fill: Fill, abandon: bool, hand_out: HandOut) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        with fill.waited_for(abandon):
            steps = fill.watch(PROGRESS_SECONDS)
            try:
                await response.prepare(request)
                await self._stream_lines(response, steps, fill, hand_out)
            except ConnectionError:  # The caller has gone, maybe before the last line; others stay.
                log.info("caller.gone", extra={"ref": str(fill.ref)})
            finally:
                await steps.aclose()
        return response

    async def _stream_lines(self, response: web.StreamResponse, steps: Steps, fill: Fill, hand_out: HandOut) -> None:
        """Write progress, and a last line with the result. Raise ConnectionError when the caller does not listen."""
        try:
            async for step in steps:
                ready = isinstance(step, Ready)
                line = ready_line(await hand_out(step)) if isinstance(step, Ready) else progress_line(step)
                await response.write(line)
                if ready:
                    break
        except CachedError as error:
            await response.write(reply(error_body(error)))
        except ConnectionError:
            raise
        except Exception as error:  # Sent, as a response cut short looks like a restart, which callers wait for.
            await response.write(reply(unforeseen("/v1/acquire", error)))
        except asyncio.CancelledError:
            if fill.task is None or not fill.task.cancelled():
                raise
            await response.write(reply(error_body(DaemonUnavailable("The fetch was stopped."))))
