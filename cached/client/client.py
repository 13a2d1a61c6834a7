"""The client: it sends requests over the daemon's unix socket and holds leases. Standard library only, imports in
milliseconds."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cached.client.connection_pool import CancellableCall, ConnectionPool
from cached.client.lease import Lease, in_the_way, pauses, take
from cached.client.request import DEFAULTS, acquire_body
from cached.errors import DaemonUnavailable, NotCached, SourceDenied, VersionMismatch
from cached.model import Progress
from cached.uris import display_name
from cached.wire import API, Ready, api_of, parse_error, parse_progress, parse_ready

if TYPE_CHECKING:
    from cached.client.connection import Connection

DEFAULT_SOCKET = "/run/cached/cached.sock"
RESTART_SECONDS = 30.0  # How long a request that a daemon restart has cut waits for the next daemon.
LEASE_SECONDS = 5.0  # How long to try to lease a cached model, where the caller sets no time.
_LAST = ("ready", "error")  # The events that end an answer.

ProgressCallback = Callable[[Progress], None]


class _Cut(Exception):
    """The daemon disconnected in the middle of a request."""


class Client:
    """A client of the daemon of this node. May be shared by threads; survives forks and daemon restarts.

    `timeout` in seconds bounds every wait for a sign of life, not the length of a download.
    """

    def __init__(self, socket: str | Path | None = None, timeout: float = 10.0) -> None:
        self.socket = str(socket or os.environ.get("CACHED_SOCKET") or DEFAULT_SOCKET)
        self._connections = ConnectionPool(self.socket, timeout)

    def __repr__(self) -> str:
        return f"<Client {self.socket}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Leases remain."""
        self._connections.close()

    def acquire(
        self,
        uri: str,
        *,
        revision: str | None = None,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        progress: ProgressCallback | None = None,
        max_age: float | None = None,
        offline: bool = False,
        pin: bool = False,
        keep: float | None = None,
        abandon: bool = False,
        require: str | None = None,
        lean: bool = False,
        timeout: float | None = None,
    ) -> Lease:
        """Return a lease on the model's directory on this node. The model is fetched first if necessary.

        `max_age` (seconds): the maximum age of an answer about a movable revision. `offline`: use only cached models
        (else NotCached). `pin`, `keep` (seconds): also protect the model without a lease (admins). `abandon`: stop
        fetching when no caller waits any more. `require="llm"`: refuse a model that an engine could not load. `lean`:
        files that vLLM does not read may be missing. `timeout` (seconds) bounds the whole call. Raise the errors of
        `cached.errors`; DaemonUnavailable quickly when there is no daemon.
        """
        body = acquire_body(uri, revision, include, exclude, max_age, offline, pin, keep, abandon, require, lean)
        return self._lease(body, progress, _deadline(timeout), CancellableCall())

    async def acquire_async(self, uri: str, **options: Any) -> Lease:
        """Acquire a model under asyncio, with the options of `acquire`. Cancelling the call leaves no lease behind."""
        import asyncio  # Here, because importing it costs more than all the rest of this module.

        call = CancellableCall()
        timeout = options.pop("timeout", None)
        progress = options.pop("progress", None)
        body = acquire_body(uri, **{**DEFAULTS, **options})
        work = asyncio.ensure_future(asyncio.to_thread(self._lease, body, progress, _deadline(timeout), call))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            call.cancel()
            work.add_done_callback(_release_late)
            raise

    def pull(self, uri: str, **options: Any) -> Ready:
        """Fetch a model if necessary and return its location, with the options of `acquire` but without a lease."""
        timeout = options.pop("timeout", None)
        progress = options.pop("progress", None)
        return self._ready(
            acquire_body(uri, **{**DEFAULTS, **options}), progress, _deadline(timeout), CancellableCall()
        )

    def path(
        self,
        uri: str,
        *,
        revision: str | None = None,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        lean: bool = False,
    ) -> Ready:
        """Return the location of a cached model; raise NotCached if it is not cached. Fetch nothing: the source is
        queried at most to check that the caller may still read the model."""
        return self.pull(uri, revision=revision, include=include, exclude=exclude, lean=lean, offline=True)

    def damaged(self, lease: Lease) -> bool:
        """Return True if a file of the snapshot was found damaged since the lease was acquired.

        Damaged files are fetched again and replaced under the same path. A process that has one open, or mapped, still
        has the old file, and must open it again.
        """
        with_history = self.call("GET", f"/v1/snapshots/{lease.digest}")
        events = [event for event in with_history["history"] if event["what"] == "damaged"]
        return any(_seconds(event["at"]) >= int(lease.since) for event in events)

    def call(self, method: str, verb: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Call one verb of the API (`GET`, `/v1/status`), and return its answer.

        Fields that the answer of another version lacks get a default. Fields that must be understood stand in the body
        under `must`: raise VersionMismatch if the daemon does not understand them.
        """
        from cached.client.replies import complete  # Here, because replicas do not need it.

        try:
            connection = self._connections.send(method, verb, body, CancellableCall())
            body_text = connection.rest()
        except OSError as error:
            raise self._connections.unavailable(error) from error
        try:
            answer = json.loads(body_text)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise VersionMismatch(f"The daemon at {self.socket} does not know {verb}: update it, or this client.")
        self._connections.keep(connection)
        if answer.get("event") == "error":
            raise parse_error({"status": connection.status, **answer})
        self._check_understood(body, answer)
        return complete(method, verb, {name: value for name, value in answer.items() if name != "api"})

    def _check_understood(self, body: Mapping[str, Any] | None, answer: Mapping[str, Any]) -> None:
        """Raise VersionMismatch if something had to be understood and the daemon is too old to check for it.

        The daemon has already acted; but its answer is not mistaken for the answer to the request.
        """
        if body and body.get("must") and api_of(answer) < 2:
            names = ", ".join(sorted(body["must"]))
            raise VersionMismatch(
                f"The daemon at {self.socket} is older than this client (API {api_of(answer)} against {API}) and does "
                f"not know {names}: update the daemon, or ask without."
            )

    def _lease(
        self, body: dict[str, Any], progress: ProgressCallback | None, deadline: float | None, call: CancellableCall
    ) -> Lease:
        ready, waiting = self._ready(body, progress, deadline, call), None
        while (fd := _take(ready)) is None:
            if not ready.hit:
                waiting = None  # It was fetched meanwhile, so the time for leasing starts again.
            waiting = waiting or pauses(LEASE_SECONDS if deadline is None else deadline - time.monotonic())
            if call.cancelled or next(waiting, ()) == ():
                raise _not_held(ready)
            try:
                ready = self._ready(body, progress, deadline, call)
            except DaemonUnavailable as error:
                if deadline is None or time.monotonic() < deadline:
                    raise
                raise _not_held(ready) from error  # Too little of the caller's time was left for another answer.
        return Lease(ready, fd)

    def _ready(
        self, body: dict[str, Any], progress: ProgressCallback | None, deadline: float | None, call: CancellableCall
    ) -> Ready:
        """Send the request, and send it to the next daemon when a restart cuts the answer."""
        patience: float | None = None
        while True:
            try:
                return self._ask(body, progress, deadline, call)
            except (_Cut, DaemonUnavailable) as error:
                if call.cancelled or (isinstance(error, DaemonUnavailable) and patience is None):
                    raise
                patience = patience or time.monotonic() + RESTART_SECONDS
                if time.monotonic() > min(patience, deadline or patience):
                    silence = error.__cause__ if isinstance(error.__cause__, TimeoutError) else None
                    raise self._connections.unavailable(silence or error) from error
                time.sleep(max(0.0, min(0.1, (deadline or patience) - time.monotonic())))

    def _ask(
        self, body: dict[str, Any], progress: ProgressCallback | None, deadline: float | None, call: CancellableCall
    ) -> Ready:
        connection = self._connections.send("POST", "/v1/acquire", body, call, deadline)
        try:
            last = self._follow(connection, body, progress, deadline)
        except BaseException:
            connection.close()
            raise
        self._connections.keep(connection)
        if last["event"] == "ready":
            return parse_ready(last)
        failure = parse_error({"status": connection.status, **last})
        raise _Cut(failure.message) if isinstance(failure, DaemonUnavailable) else failure

    def _follow(
        self, connection: Connection, body: dict[str, Any], progress: ProgressCallback | None, deadline: float | None
    ) -> dict[str, Any]:
        """Report progress until the last line and return that; raise _Cut if it is not received. Ignore events of a
        newer daemon.

        Raise VersionMismatch at the first line of a daemon that does not check for fields that it must understand.
        """
        lines, uri = connection.lines(), body["uri"]
        while (line := _line(connection, lines)).get("event") not in _LAST:
            self._check_understood(body, line)
            if progress is not None and line.get("event") == "progress":
                progress(parse_progress(line))
            # A little longer than the caller wants to wait: a live daemon sends several lines a second.
            connection.wait_at_most(self._connections.patience(None if deadline is None else deadline + 1.0))
            if deadline is not None and time.monotonic() > deadline:
                raise DaemonUnavailable(f"{display_name(uri)} was not ready in time; the fetch goes on, so ask again.")
        if line["event"] == "ready":
            self._check_understood(body, line)
        return line


def _take(ready: Ready) -> int | None:
    try:
        return take(ready.lock)
    except PermissionError:
        raise SourceDenied(
            f"You may not enter {ready.path}: see `cached doctor`, or the uid that the daemon sees you as."
        ) from None


def _not_held(ready: Ready) -> NotCached:
    who = in_the_way(ready.lock)
    why = f"{who} holds its lock" if who else "it was removed again each time"
    return NotCached(f"{ready.source} could not be held: {why}; try again.")


def _line(connection: Connection, lines: Iterator[bytes]) -> dict[str, Any]:
    """Return the next line; the last one only after the end of the answer. Raise _Cut if the answer is cut."""
    try:
        line = json.loads(next(lines, b""))
        if not isinstance(line, dict):
            raise ValueError("a line that is no object")
        if line.get("event") in _LAST:
            connection.rest()
    except (OSError, ValueError) as error:
        raise _Cut(str(error)) from error
    return line


def _seconds(stamp: str) -> float:
    """Convert a time in UTC, as in RFC 3339, to seconds since the epoch."""
    import calendar  # Here, because importing it costs more than all the rest of this module.

    return calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ"))


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _release_late(work: Any) -> None:
    if not work.cancelled() and work.exception() is None:
        work.result().release()
