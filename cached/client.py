"""The client: asks the daemon over its unix socket and holds leases. Standard library only, imports in milliseconds."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cached.errors import CachedError, DaemonUnavailable, NotCached, SourceDenied, VersionMismatch
from cached.lease import Lease, in_the_way, pauses, take
from cached.model import Progress
from cached.request import DEFAULTS, acquire_body
from cached.uris import display_name
from cached.wire import API, Ready, api_of, encode, parse_error, parse_progress, parse_ready

if TYPE_CHECKING:
    from cached.connection import Connection

DEFAULT_SOCKET = "/run/cached/cached.sock"
RESTART_SECONDS = 30.0  # How long a request that a daemon restart has cut waits for the next daemon.
LEASE_SECONDS = 5.0  # How long it is tried to hold what has been found, where the caller sets no time.
_LAST = ("ready", "error")  # The events that end an answer.
_ABSENT = (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)

ProgressCallback = Callable[[Progress], None]


class _Cut(Exception):
    """The daemon went away in the middle of a request."""


class Client:
    """Talks to the daemon of this node. May be shared by threads; survives forks and daemon restarts.

    `timeout` in seconds bounds every wait for a sign of life, not the length of a download.
    """

    def __init__(self, socket: str | Path | None = None, timeout: float = 10.0) -> None:
        self.socket = str(socket or os.environ.get("CACHED_SOCKET") or DEFAULT_SOCKET)
        self._timeout = timeout
        self._idle: list[Connection] = []

    def __repr__(self) -> str:
        return f"<Client {self.socket}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Leases stay."""
        while self._idle:
            self._idle.pop().close()

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
        """The model's directory on this node, fetched first if need be, and held.

        `max_age` in seconds: how old an answer about a moving revision may be. `offline`: only what is here
        (NotCached). `pin`, `keep` (seconds): also keep it without a lease (admins). `abandon`: stop fetching when
        nobody waits any more. `require="llm"`: refuse what an engine could not load. `lean`: what vLLM does not read
        may be missing. `timeout` in seconds bounds the whole call. Raises the errors of `cached.errors`;
        DaemonUnavailable quickly when there is no daemon.
        """
        body = acquire_body(uri, revision, include, exclude, max_age, offline, pin, keep, abandon, require, lean)
        return self._lease(body, progress, _deadline(timeout), _Call())

    async def acquire_async(self, uri: str, **options: Any) -> Lease:
        """`acquire` for asyncio, with the same options. Cancelling it leaves no lease behind."""
        import asyncio  # Here, because importing it costs more than all the rest of this module.

        call = _Call()
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
        """`acquire` without the lease: make it present, and say where."""
        timeout = options.pop("timeout", None)
        progress = options.pop("progress", None)
        return self._ready(acquire_body(uri, **{**DEFAULTS, **options}), progress, _deadline(timeout), _Call())

    def path(
        self,
        uri: str,
        *,
        revision: str | None = None,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        lean: bool = False,
    ) -> Ready:
        """Where the model is; NotCached when it is not here. Fetches nothing: the source is asked at most whether the
        caller may still read what is here."""
        return self.pull(uri, revision=revision, include=include, exclude=exclude, lean=lean, offline=True)

    def damaged(self, lease: Lease) -> bool:
        """Whether a file of it was found damaged since the lease was taken.

        Damaged files are fetched again and replaced under the same path; who has one open, or mapped, still has the
        old one, and must open it again.
        """
        with_history = self.call("GET", f"/v1/snapshots/{lease.digest}")
        events = [event for event in with_history["history"] if event["what"] == "damaged"]
        return any(_seconds(event["at"]) >= int(lease.since) for event in events)

    def call(self, method: str, verb: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One raw verb of the API (`GET`, `/v1/status`), and its answer.

        What the answer of another version lacks is there with a default. What must be understood stands in the body
        under `must`: VersionMismatch by a daemon that does not.
        """
        from cached.replies import complete  # Here, because replicas do without.

        try:
            connection = self._send(method, verb, body, _Call())
            body_text = connection.rest()
        except OSError as error:
            raise self._unavailable(error) from error
        try:
            answer = json.loads(body_text)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise VersionMismatch(f"The daemon at {self.socket} does not know {verb}: update it, or this client.")
        self._idle.append(connection)
        if answer.get("event") == "error":
            raise parse_error({"status": connection.status, **answer})
        self._check_understood(body, answer)
        return complete(method, verb, {name: value for name, value in answer.items() if name != "api"})

    def _check_understood(self, body: Mapping[str, Any] | None, answer: Mapping[str, Any]) -> None:
        """VersionMismatch when something had to be understood and the daemon is one that looks at nothing of the kind.

        What it did is done; but nobody takes what it gave for what was asked for.
        """
        if body and body.get("must") and api_of(answer) < 2:
            names = ", ".join(sorted(body["must"]))
            raise VersionMismatch(
                f"The daemon at {self.socket} is older than this client (API {api_of(answer)} against {API}) and does "
                f"not know {names}: update the daemon, or ask without."
            )

    def _lease(
        self, body: dict[str, Any], progress: ProgressCallback | None, deadline: float | None, call: _Call
    ) -> Lease:
        ready, waiting = self._ready(body, progress, deadline, call), None
        while (fd := _take(ready)) is None:
            if not ready.hit:
                waiting = None  # It was fetched meanwhile, which may take its time.
            waiting = waiting or pauses(LEASE_SECONDS if deadline is None else deadline - time.monotonic())
            if call.cancelled or next(waiting, ()) == ():
                raise _not_held(ready)
            try:
                ready = self._ready(body, progress, deadline, call)
            except DaemonUnavailable as error:
                if deadline is None or time.monotonic() < deadline:
                    raise
                raise _not_held(ready) from error  # Too little was left of the caller's time to be answered once more.
        return Lease(ready, fd)

    def _ready(
        self, body: dict[str, Any], progress: ProgressCallback | None, deadline: float | None, call: _Call
    ) -> Ready:
        """Ask, and ask the next daemon when a restart cuts the answer."""
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
                    raise self._unavailable(silence or error) from error
                time.sleep(max(0.0, min(0.1, (deadline or patience) - time.monotonic())))

    def _ask(
        self, body: dict[str, Any], progress: ProgressCallback | None, deadline: float | None, call: _Call
    ) -> Ready:
        connection = self._send("POST", "/v1/acquire", body, call, deadline)
        try:
            last = self._follow(connection, body, progress, deadline)
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        if last["event"] == "ready":
            return parse_ready(last)
        failure = parse_error({"status": connection.status, **last})
        raise _Cut(failure.message) if isinstance(failure, DaemonUnavailable) else failure

    def _follow(
        self, connection: Connection, body: dict[str, Any], progress: ProgressCallback | None, deadline: float | None
    ) -> dict[str, Any]:
        """Report progress until the last line; _Cut when that does not come. Events of a newer daemon are passed over.

        VersionMismatch at the first line of a daemon that did not look at what it must understand.
        """
        lines, uri = connection.lines(), body["uri"]
        while (line := _line(connection, lines)).get("event") not in _LAST:
            self._check_understood(body, line)
            if progress is not None and line.get("event") == "progress":
                progress(parse_progress(line))
            # A little longer than the caller wants to wait: a daemon that is alive speaks several times a second.
            connection.wait_at_most(self._wait(None if deadline is None else deadline + 1.0))
            if deadline is not None and time.monotonic() > deadline:
                raise DaemonUnavailable(f"{display_name(uri)} was not ready in time; the fetch goes on, so ask again.")
        if line["event"] == "ready":
            self._check_understood(body, line)
        return line

    def _wait(self, deadline: float | None) -> float:
        """Seconds for the next sign of life."""
        return self._timeout if deadline is None else max(0.001, min(self._timeout, deadline - time.monotonic()))

    def _send(
        self, method: str, verb: str, body: Mapping[str, Any] | None, call: _Call, deadline: float | None = None
    ) -> Connection:
        """DaemonUnavailable when nobody is there. A kept connection that a restart has closed is replaced once; on one
        that is silent the daemon may have had the request, so it does not get it again."""
        payload = encode({**body, "api": API}) if body is not None else None
        while True:
            connection, fresh = self._connection()
            try:
                call.on(connection)
                connection.wait_at_most(self._wait(deadline))
                connection.send(method, verb, payload)
                return connection
            except OSError as error:
                connection.close()
                if fresh or isinstance(error, TimeoutError):
                    raise self._unavailable(error) from error

    def _connection(self) -> tuple[Connection, bool]:
        """A kept connection and False, or a new one and True."""
        from cached.connection import Connection  # Here: it doubles what `import cached` costs.

        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # Another thread was quicker.
                break
            if connection.pid == os.getpid():  # A forked child must not talk on its parent's connections.
                return connection, False
        return Connection(self.socket, self._timeout), True

    def _unavailable(self, error: Exception) -> CachedError:
        if isinstance(error, DaemonUnavailable):
            return error
        if isinstance(error, _ABSENT):
            what = f"There is no cached daemon at {self.socket}; start it, or set CACHED_SOCKET."
        elif isinstance(error, PermissionError):
            what = f"You may not use {self.socket}: ask an operator to add you to the socket's group."
        elif isinstance(error, TimeoutError):
            what = f"The cached daemon at {self.socket} did not answer in time; see its log."
        else:
            what = f"The cached daemon at {self.socket} went away: {error}."
        return DaemonUnavailable(what)


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
    """The next line; the last one only with the end of the answer after it."""
    try:
        line = json.loads(next(lines, b""))
        if not isinstance(line, dict):
            raise ValueError("a line that is no object")
        if line.get("event") in _LAST:
            connection.rest()
    except (OSError, ValueError) as error:
        raise _Cut(str(error)) from error
    return line


class _Call:
    """One request that another thread may cancel."""

    def __init__(self) -> None:
        self.cancelled = False
        self._connection: Connection | None = None

    def on(self, connection: Connection) -> None:
        self._connection = connection
        if self.cancelled:
            raise ConnectionAbortedError("cancelled")

    def cancel(self) -> None:
        self.cancelled = True
        if self._connection is not None:
            self._connection.abort()


def _seconds(stamp: str) -> float:
    """Since the epoch, of RFC 3339 in UTC."""
    import calendar  # Here, because importing it costs more than all the rest of this module.

    return calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ"))


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _release_late(work: Any) -> None:
    if not work.cancelled() and work.exception() is None:
        work.result().release()
