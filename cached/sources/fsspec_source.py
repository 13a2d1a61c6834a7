"""Any other fsspec protocol that the config allows, with options from the setting `source_options`.

fsspec promises no way to pin a version, so each read is checked: the listed version of a file must still hold after it.
"""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from typing import Any, TypeVar

import fsspec
from fsspec.exceptions import FSTimeoutError

from cached import budget
from cached.access import Credentials
from cached.config import Config
from cached.errors import CachedError, InvalidRequest, ModelNotFound, SourceUnavailable
from cached.model import Entry, Listing, listing_revision
from cached.model_ref import ModelRef
from cached.sources.source import Reader
from cached.sources.transport.ranges import changed, denied, proving, spoken, unavailable
from cached.sources.transport.waiting import result

Result = TypeVar("Result")

# Fields by which filesystems state a file's version, the surest first. Times count only together with the size.
_IDENTITIES = ("version_id", "generation", "ETag", "etag", "checksum", "content_hash", "md5", "sha", "hex")
_TIMES = ("mtime", "LastModified", "last_modified", "modified", "modify", "updated", "created")


class FilesystemSource:
    """A source with one connection, used by one call at a time."""

    def __init__(self, config: Config, protocol: str) -> None:
        self._protocol = protocol
        self._options = dict(config.source_options.get(protocol, {}))
        self._read_timeout = float(config.read_timeout)
        self._lock = threading.Lock()
        self._fs: Any = None
        self._turn = threading.Lock()

    def resolve(self, ref: ModelRef, credentials: Credentials, timeout: float) -> Listing:
        self._lend(ref, credentials)
        with filesystem_errors(ref):
            self._check_host(ref)
        root, found = self.call(ref, timeout, lambda fs: _find(fs, ref.uri))
        entries = tuple(entry for entry in found if ref.selects(entry.path))
        return Listing(ref, f"{self._protocol}://{self._where()}{root}", listing_revision(entries), entries)

    def prove(self, listing: Listing, entry: Entry, credentials: Credentials, timeout: float) -> None:
        self._lend(listing.ref, credentials)
        root = listing.place.removeprefix(f"{self._protocol}://{self._where()}")
        with proving(listing.ref):
            FilesystemReader(self, listing.ref, f"{root}/{entry.path}", entry, timeout).prove()

    def principal(self, credentials: Credentials, timeout: float) -> str | None:
        return None

    def open(self, listing: Listing, entry: Entry, credentials: Credentials) -> Reader:
        root = listing.place.removeprefix(f"{self._protocol}://{self._where()}")
        return FilesystemReader(self, listing.ref, f"{root}/{entry.path}", entry, self._read_timeout)

    def close(self) -> None:
        with self._lock:
            self._fs = None

    def _lend(self, ref: ModelRef, credentials: Credentials) -> None:
        """Raise SourceDenied if the caller may not use the daemon's own credentials: there are no others."""
        if not credentials.lend:
            raise denied(ref, "the daemon's own credentials for it are not for you; ask the operator")

    def call(self, ref: ModelRef, timeout: float, work: Callable[[Any], Result], file: str = "") -> Result:
        """Run `work` on the filesystem and return its result, in a thread that is abandoned when it takes longer than
        `timeout` seconds: most of fsspec cannot be interrupted. The next call then makes a connection of its own."""
        with filesystem_errors(ref, file):
            future: Future[Result] = Future()
            with self._lock:
                turn = self._turn

            def run() -> None:
                try:
                    with turn:
                        found = work(self._connection())
                except BaseException as error:
                    with contextlib.suppress(InvalidStateError):  # No caller waits any more.
                        future.set_exception(error)
                else:
                    with contextlib.suppress(InvalidStateError):
                        future.set_result(found)

            context = contextvars.copy_context()  # It holds the budget that is charged.
            threading.Thread(target=context.run, args=(run,), name=f"source-{self._protocol}", daemon=True).start()
            try:
                return result(future, timeout)
            finally:
                if not future.done() or future.cancelled():
                    self._abandon(turn)

    def _check_host(self, ref: ModelRef) -> None:
        """Raise InvalidRequest if the URI names a host other than the operator's: no caller may choose the host."""
        host = fsspec.get_filesystem_class(self._protocol)._get_kwargs_from_urls(ref.uri).get("host")
        if host and host != self._options.get("host"):
            raise InvalidRequest(
                f"{spoken(ref)} names a host, and which is asked is for the setting 'source_options' to say; ask the "
                "operator."
            )

    def _abandon(self, turn: threading.Lock) -> None:
        with self._lock:
            if self._turn is turn:
                self._turn, self._fs = threading.Lock(), None

    def _connection(self) -> Any:
        with self._lock:
            if self._fs is None:
                options = {**self._options, "skip_instance_cache": True, "use_listings_cache": False}
                self._fs = fsspec.filesystem(self._protocol, **options)
            return self._fs

    def _where(self) -> str:
        """Return the host, when the options name it: it is part of a file's identity."""
        host = self._options.get("host") or self._options.get("endpoint_url") or ""
        return f"{host}/" if host else ""


class FilesystemReader:
    def __init__(self, source: FilesystemSource, ref: ModelRef, path: str, entry: Entry, timeout: float) -> None:
        self._source, self._ref, self._path, self._entry, self._timeout = source, ref, path, entry, timeout

    def __repr__(self) -> str:
        return f"FilesystemReader({self._path})"

    def read(self, offset: int, length: int) -> bytes:
        if not length:
            return b""
        data = self._source.call(self._ref, self._timeout, self._slice(offset, length), self._path)
        if len(data) != length:
            self.recheck()
            raise SourceUnavailable(f"The source sent {len(data)} of {length} bytes of {self._path}; try again.")
        return data

    def prove(self) -> None:
        """Return only if the file can be read and is as it was listed. Raise ModelNotFound if it is gone, SourceChanged
        if it differs."""

        def look(fs: Any) -> list[tuple[str, int]]:
            if self._entry.size:
                self._slice(0, 1)(fs)
            return self._looks(fs)

        if (self._entry.version, self._entry.size) not in self._source.call(self._ref, self._timeout, look):
            raise changed(self._path, "its size or time is another one")

    def recheck(self, resumed: bool = False) -> None:
        known = self._entry.version, self._entry.size
        if known not in self._source.call(self._ref, self._timeout, self._looks, self._path):
            raise changed(self._path, "its size or time is another one")

    def close(self) -> None: ...

    def _slice(self, offset: int, length: int) -> Callable[[Any], bytes]:
        return lambda fs: bytes(fs.cat_file(self._path, start=offset, end=offset + length))

    def _looks(self, fs: Any) -> list[tuple[str, int]]:
        """Return the file's version and size now, as a listing gives them and as `info` does, which a URI of one file
        uses.

        The two may spell the same version differently.
        """
        listed = [item for item in fs.ls(self._path.rpartition("/")[0], detail=True) if item["name"] == self._path]
        return [(_version(fs, self._path, item), int(item["size"])) for item in (*listed, fs.info(self._path))]


def _find(fs: Any, uri: str) -> tuple[str, list[Entry]]:
    """Return the folder and the files in it; for a URI of one file, that file in its folder."""
    root = str(fs._strip_protocol(uri)).rstrip("/")
    info = fs.info(root)
    if info["type"] == "file":
        root, _, name = root.rpartition("/")
        return root, [Entry(name, int(info["size"]), _version(fs, f"{root}/{name}", info))]
    entries = []
    for path, item in _files(fs, root).items():
        if not path.startswith(f"{root}/"):
            raise InvalidRequest(f"The source lists {path[:120]!r}, which is not below the URI; nothing was fetched.")
        entries.append(Entry(path[len(root) + 1 :], _size(item), _version(fs, path, item)))
    return root, entries


def _files(fs: Any, root: str) -> dict[str, Mapping[str, Any]]:
    """Return the results of `find` by path. Folders are listed one by one, so that the work can be cancelled."""
    found: dict[str, Mapping[str, Any]] = {}
    count = 0
    for _, folders, files in fs.walk(root, detail=True):
        count += len(folders) + len(files)
        budget.listed(count)
        for item in files.values():
            if item["type"] == "file" and not (item["size"] == 0 and item["name"].endswith("/")):
                found[item["name"]] = item
    return found


def _size(info: Mapping[str, Any]) -> int:
    if info.get("size") is None:
        raise SourceUnavailable(
            f"The source does not say how long {str(info.get('name'))[:120]!r} is; use another one."
        )
    return int(info["size"])


def _version(fs: Any, path: str, info: Mapping[str, Any]) -> str:
    """Return the surest version that the filesystem gives; without an identity or a time, a hash of its `ukey`."""
    for name in _IDENTITIES:
        if info.get(name):
            return f"{name}={str(info[name])[:200]}"
    times = [f"{name}={info[name]}" for name in _TIMES if info.get(name)]
    if times:
        return f"size={info['size']} {' '.join(times)}"
    return f"ukey={hashlib.sha256(str(fs.ukey(path)).encode()).hexdigest()[:32]}"


@contextmanager
def filesystem_errors(ref: ModelRef, file: str = "") -> Iterator[None]:
    """Translate any error of a filesystem to ours. Its text is not passed on: it may quote options."""
    try:
        yield
    except CachedError:
        raise
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, KeyError):
        if file:
            raise changed(file, "it is gone") from None
        raise ModelNotFound(f"There are no model files at {spoken(ref)}: the place does not exist.") from None
    except PermissionError:
        raise denied(ref, "check the credentials in the setting 'source_options'") from None
    except (FutureTimeout, FSTimeoutError):
        raise unavailable(ref, "it did not answer in time") from None
    except (ImportError, ValueError, TypeError) as error:
        raise InvalidRequest(
            f"{spoken(ref)} cannot be read ({type(error).__name__}): install the protocol's package and check the "
            "setting 'source_options'."
        ) from None
    except Exception as error:
        if "auth" in type(error).__name__.lower():
            raise denied(ref, "check the credentials in the setting 'source_options'") from None
        # Most filesystems have errors of their own. Of the system's, these concern the connection.
        seen = isinstance(error, ConnectionError | socket.gaierror)
        raise unavailable(ref, f"it failed: {type(error).__name__}", seen=seen) from None
