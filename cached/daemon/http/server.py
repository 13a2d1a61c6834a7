"""Connections that end: aiohttp's, with a deadline for everything that the other side may leave undone.

There are four deadlines: for a head that does not end, for a body (see `api`), for an answer that is not read, and for
silence.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Hashable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from cached.daemon.http.guests import Guests
from cached.daemon.http.peer import peer_at
from cached.errors import Overloaded
from cached.wire import error_body, reply

log = logging.getLogger("cached.api")

HEAD_SECONDS = 10.0
BODY_SECONDS = 10.0
IDLE_SECONDS = 75.0
UNREAD_SECONDS = 60.0  # The longest that an answer may wait to be read.
LINGER_SECONDS = 2.0  # For the rest of a body that is not read.
TRIED_AGAIN_SECONDS = 1.0  # After the system had no descriptor for a connection.
REFUSED = 64  # Connections that may wait for the answer that there are too many.
TOO_MANY = "Too many of your connections are open at once; close some, and try again."
_OPTIONS: dict[str, Any] = {
    "access_log": None,
    "keepalive_timeout": IDLE_SECONDS,
    "lingering_time": LINGER_SECONDS,
    "auto_decompress": False,  # A few bytes could become megabytes.
}


class Connection(web.RequestHandler):
    """A connection of aiohttp's with deadlines. See `guests.Guest`. `owner` is a uid, or an address."""

    __slots__ = ("_guests", "_late", "_seen", "_unread", "active_at", "owner")

    def __init__(self, server: web.Server, guests: Guests, owner: Hashable, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(server, loop=loop, **_OPTIONS)
        self._guests, self.owner = guests, owner
        self.active_at = loop.time()
        self._seen = 0
        self._late: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        return self._current_request is None and not self._messages

    def dismiss(self) -> None:
        self.force_close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._guests.leave(self)
        for timer in (self._late, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.active_at = self._loop.time()
        super().data_received(data)
        if self._request_count != self._seen:
            self._seen = self._request_count
            if self._late is not None:
                self._late.cancel()
                self._late = None
        elif data and self.idle and self._late is None:
            self._expect_head()

    def _expect_head(self) -> None:
        self._late = self._loop.call_later(HEAD_SECONDS, self._end, "connection.late")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self._loop.call_later(UNREAD_SECONDS, self._end, "connection.unread")

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _end(self, event: str) -> None:
        log.info(event, extra={"by": self.owner})
        transport = self.transport
        self.force_close()
        if transport is not None:
            transport.abort()  # Drop the bytes that could not be written.

    def log_exception(self, *args: Any, **more: Any) -> None:
        """Log errors in the other side's bytes in one line; log our own bugs in full."""
        error = more.get("exc_info")
        if isinstance(error, HttpProcessingError):
            log.info("request.malformed", extra={"by": self.owner, "why": type(error).__name__})
        else:
            super().log_exception(*args, **more)


class _Refused(asyncio.Protocol):
    """A connection that is answered with 503 once it has sent a request: bytes left unread would cut the answer off."""

    def __init__(self, refused: set[_Refused]) -> None:
        self._refused = refused
        self._transport: asyncio.Transport | None = None
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._refused.add(self)
        self._transport = transport
        self._late = asyncio.get_running_loop().call_later(TRIED_AGAIN_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        body = reply(error_body(Overloaded(TOO_MANY)))
        head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        self._transport.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        self._transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._refused.discard(self)
        if self._late is not None:
            self._late.cancel()


class Door:
    """Accept connections, one after the other."""

    def __init__(self, application: web.Application, listener: socket.socket, guests: Guests) -> None:
        self._runner = web.AppRunner(application, shutdown_timeout=1.0, **_OPTIONS)
        self._listener, self._guests = listener, guests
        self._refused: set[_Refused] = set()
        self._accepting: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self._runner.setup()
        self._listener.setblocking(False)
        self._accepting = asyncio.create_task(self._accept())

    async def close(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
        self._listener.close()
        await self._runner.cleanup()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._guests.room()
            try:
                connection, address = await loop.sock_accept(self._listener)
            except ConnectionAbortedError:
                continue
            except OSError as error:
                log.error("connections.refused", extra={"why": error.strerror})
                await asyncio.sleep(TRIED_AGAIN_SECONDS)
                continue
            try:
                await self._let_in(loop, connection, address)
            except OSError:  # The peer has disconnected.
                connection.close()
            except Exception:  # This connection is lost; the next one is not.
                log.exception("connection.bug")
                connection.close()

    async def _let_in(self, loop: asyncio.AbstractEventLoop, connection: socket.socket, address: Any) -> None:
        peer = peer_at(connection)
        owner: Hashable = address[0] if peer is None else peer.uid
        server = self._runner.server
        assert server is not None  # `open` was called first.
        guest = Connection(server, self._guests, owner, loop)
        if self._guests.enter(guest, unbound=peer is not None and peer.uid in (0, os.geteuid())):
            try:
                await loop.connect_accepted_socket(lambda: guest, connection)
            except BaseException:
                self._guests.leave(guest)  # Nothing else will call it.
                raise
        elif len(self._refused) < REFUSED:
            await loop.connect_accepted_socket(lambda: _Refused(self._refused), connection)
        else:
            connection.close()
