"""The daemon's process: start, serve until a signal, and stop within ten seconds."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import grp
import logging
import os
import resource
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path

from cached.config import Config
from cached.daemon.acquire.cache import Cache
from cached.daemon.http.api import Api
from cached.daemon.http.guests import Guests
from cached.daemon.http.inventory import Inventory
from cached.daemon.http.server import Door
from cached.daemon.integrity.check import Checker
from cached.daemon.integrity.repair import Healer
from cached.daemon.integrity.scrub import Scrubber
from cached.daemon.integrity.tamper import Tamper
from cached.daemon.integrity.verify import Verifier
from cached.daemon.runtime.background import Background
from cached.daemon.runtime.sd_notify import notify, watchdog
from cached.daemon.runtime.threads import Threads, prefer_this_process
from cached.daemon.space.disks import Disks
from cached.daemon.transfer.workers import Workers
from cached.errors import CachedError, ConfigError, InvalidRequest, StoreDegraded
from cached.logs import configure
from cached.undumpable import leave_no_core
from cached.variables import ALPHABETS, cleaned

log = logging.getLogger("cached.daemon")

FINISH_SECONDS = 5.0  # Time for fills to end after SIGTERM before they are parked.
FLUSH_SECONDS = 2.0  # Between two writes of uses; a crash loses at most that much of the LRU order.
BACKLOG = 4096  # Connections that may wait to be accepted.
FILES_SHARE = 2  # One in this many descriptors may be a caller's; the others are for files and workers.
SWITCH_SECONDS = 0.001  # The longest that a thread that goes through thousands of files may block the event loop.
OBSERVERS = 64  # Connections to `listen`.
_CREDENTIALS = {"aws_credentials": "AWS_SHARED_CREDENTIALS_FILE", "gcp.json": "GOOGLE_APPLICATION_CREDENTIALS"}


def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT, then end the process with exit code 0. Raises the CachedError that keeps it from
    starting."""
    configure(config.log_level)
    leave_no_core()
    load_credentials()
    check_variables()
    asyncio.run(_serve(config))
    sys.stdout.flush()
    sys.stderr.flush()
    # A thread that waits for a disk would keep the interpreter alive; everything important is synced.
    os._exit(0)


def load_credentials() -> None:
    """Load the secrets of systemd's LoadCredential: files that only this service can read."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return
    token = Path(folder, "hf_token")
    if token.exists():
        os.environ["HF_TOKEN"] = token.read_text(errors="replace")
    for name, variable in _CREDENTIALS.items():
        if Path(folder, name).exists():
            os.environ[variable] = str(Path(folder, name))


def check_variables() -> None:
    """Check the daemon's own credentials by the rules for callers'. Raises ConfigError, which names the invalid one."""
    try:
        found = cleaned(os.environ)
    except InvalidRequest as error:
        raise ConfigError(error.message) from None
    for name in ALPHABETS.keys() & os.environ.keys():
        os.environ[name] = found.get(name, "")


async def _serve(config: Config) -> None:
    stopping = _asked_to_stop()
    _allow_many_files()
    prefer_this_process()
    sys.setswitchinterval(SWITCH_SECONDS)
    threads = Threads()
    disks = await threads.disk(Disks.open, config)
    try:
        workers = Workers(config, disks.claims, threads)
        cache = Cache(config, disks, workers)
        checker, healer = Checker(workers), Healer(cache)
        scrubbers = [Scrubber(config, disk, checker, healer) for disk in disks]
        inventory = Inventory(cache, scrubbers, threads, version("model-cached"))
        api = Api(cache, inventory, Verifier(disks, checker, healer))
        tampers = [Tamper(disk, checker, healer if config.self_heal else None) for disk in disks]
        for tamper in tampers:
            await tamper.begin()
        await cache.gate.begin()
        background = Background()
        async with _listening(config, api):
            for run in (watchdog, functools.partial(_flush, cache), functools.partial(_start_early, workers)):
                background.start(run)
            background.start(cache.gate.sweep)
            for tamper in tampers:
                background.start(tamper.run)
            for scrubber in scrubbers:
                background.start(scrubber.run)
            notify("READY=1")
            disks.say_how_we_are()
            roots = [str(disk.root) for disk in disks]
            log.info("daemon.ready", extra={"roots": roots, "socket": str(config.socket)})
            await stopping.wait()
            notify("STOPPING=1\nSTATUS=finishing or parking fills")
            log.info("daemon.stopping", extra={"fills": len(cache.fills)})
            await cache.close(FINISH_SECONDS)
            await workers.close()
            await background.close()
    finally:
        disks.close()
    log.info("daemon.stopped")


def _asked_to_stop() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping


async def _start_early(workers: Workers) -> None:
    """Start the workers, so that the first miss need not wait for imports. If that fails, the error is logged, and the
    next miss receives it."""
    try:
        await workers.start()
    except CachedError as error:
        log.error("workers.failed", extra={"why": error.message})


def _allow_many_files() -> None:
    """Raise the limit on descriptors: every caller needs one, and the usual soft limit of 1024 is meant for programs
    that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # A sandbox may forbid it; the unit sets both anyway.
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _flush(cache: Cache) -> None:
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        await cache.flush()


@contextlib.asynccontextmanager
async def _listening(config: Config, api: Api) -> AsyncIterator[None]:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    guests = Guests(files // FILES_SHARE, config.max_connections_per_user)
    listener = _unix_socket(config)
    doors = [Door(api.app(), listener, guests)]
    try:
        if config.listen:
            observers = Guests(min(OBSERVERS, files // FILES_SHARE // 2), OBSERVERS)
            doors += [Door(api.observer_app(), each, observers) for each in await _tcp_sockets(config.listen)]
        listener.listen(BACKLOG)
        for door in reversed(doors):  # The unix socket's last: a daemon that answers on it answers on all.
            await door.open()
        yield
    finally:
        for door in doors:
            await door.close()
        with contextlib.suppress(FileNotFoundError):
            config.socket.unlink()


async def _tcp_sockets(listen: str) -> list[socket.socket]:
    """Return listening sockets, one for every address of the host's name. Raises ConfigError."""
    host, _, port = listen.rpartition(":")
    try:
        # asyncio resolves the name and sets the socket options. We accept ourselves.
        server = await asyncio.get_running_loop().create_server(
            asyncio.Protocol, host.strip("[]"), int(port), start_serving=False
        )
        found = [socket.socket(fileno=os.dup(each.fileno())) for each in server.sockets]
        server.close()
        for each in found:
            each.listen(BACKLOG)
    except OSError as error:
        raise ConfigError(f"Cannot listen on {listen}: {error.strerror}; change `listen`.") from error
    return found


def _unix_socket(config: Config) -> socket.socket:
    """Return a listening socket that is never more open than configured. A dead daemon's socket is replaced, since this
    daemon holds the root. Raises StoreDegraded if another daemon answers on it, and ConfigError if it cannot be made.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        config.socket.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(config.socket.lstat().st_mode):
                raise ConfigError(f"{config.socket} is there and is not a socket; move it, or change `socket`.")
            _refuse_if_answered(config.socket)
            config.socket.unlink()
        before = os.umask(0o777)
        try:
            listener.bind(str(config.socket))
        finally:
            os.umask(before)
        if config.socket_group:
            os.chown(config.socket, -1, grp.getgrnam(config.socket_group).gr_gid)
        os.chmod(config.socket, int(config.socket_mode, 8))
    except KeyError:
        listener.close()
        raise ConfigError(f"There is no group {config.socket_group!r}; change `socket_group`.") from None
    except OSError as error:
        listener.close()
        raise ConfigError(f"Cannot make the socket {config.socket}: {error.strerror or error}.") from error
    except BaseException:
        listener.close()
        raise
    return listener


def _refuse_if_answered(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (BlockingIOError, TimeoutError):
            pass  # A process listens, but has not accepted yet.
        except OSError:
            return
    raise StoreDegraded(f"Another daemon answers on {path}; stop it, or change `socket`.")
