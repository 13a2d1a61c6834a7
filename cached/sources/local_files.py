"""Files at file:// URIs, below the folders that the operator has opened. Links are followed, but never out of those."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

from cached import budget
from cached.access import Credentials
from cached.config import Config
from cached.errors import CachedError, InvalidRequest, ModelNotFound
from cached.model import Entry, Listing, listing_revision
from cached.model_ref import ModelRef
from cached.sources.source import Reader
from cached.sources.transport.ranges import changed, denied, proving, unavailable


class LocalSource:
    def __init__(self, config: Config) -> None:
        self._roots = tuple(os.path.realpath(root) for root in config.file_roots)

    def check(self, ref: ModelRef) -> str:
        """Return the ref's real path. Raise InvalidRequest if it is not below one of the roots."""
        path = unquote(ref.place)
        if ref.scheme != "file" or not path.startswith("/") or "\0" in path:
            raise InvalidRequest(f"{ref.uri} is not a local path; write file:///folder.")
        real = os.path.realpath(path)
        if not self.allows(real):
            raise InvalidRequest(f"{ref.uri} is not below a folder of the setting 'file_roots'; ask the operator.")
        return real

    def allows(self, real: str) -> bool:
        return any(os.path.commonpath((root, real)) == root for root in self._roots)

    def resolve(self, ref: ModelRef, credentials: Credentials, timeout: float) -> Listing:
        place = self.check(ref)
        with local_errors(ref):
            if stat.S_ISREG(os.stat(place).st_mode):
                place, name = os.path.split(place)
                names = [name]
            else:
                names = sorted(_walk(place))
            found = [self._entry(ref, place, name) for name in names]
        entries = tuple(entry for entry in found if entry is not None and ref.selects(entry.path))
        return Listing(ref, f"file://{place}", listing_revision(entries), entries, open=True)

    def prove(self, listing: Listing, entry: Entry, credentials: Credentials, timeout: float) -> None:
        """Check only that the file is as it was listed: the operator has opened the folder to everybody."""
        self.check(listing.ref)
        with proving(listing.ref), local_errors(listing.ref):
            found = self._entry(listing.ref, listing.place.removeprefix("file://"), entry.path)
        if found is None or (found.size, found.version) != (entry.size, entry.version):
            raise changed(f"{listing.place}/{entry.path}", "it was written to")

    def principal(self, credentials: Credentials, timeout: float) -> str | None:
        return None

    def open(self, listing: Listing, entry: Entry, credentials: Credentials) -> Reader:
        return LocalReader(self, listing.ref, os.path.join(listing.place.removeprefix("file://"), entry.path), entry)

    def close(self) -> None: ...

    def _entry(self, ref: ModelRef, place: str, name: str) -> Entry | None:
        """Return the file's entry; None for sockets, pipes and devices, which are not model files. Raise InvalidRequest
        if a link leads out of the roots."""
        path = os.path.realpath(os.path.join(place, name))
        if not self.allows(path):
            raise InvalidRequest(f"{ref.uri} holds a link {name!r} that leads out of the setting 'file_roots'.")
        info = os.stat(path)
        return Entry(name, info.st_size, _version(info)) if stat.S_ISREG(info.st_mode) else None


class LocalReader:
    """A reader that keeps one descriptor open: a replaced file stays readable, a write to the file is noticed."""

    def __init__(self, source: LocalSource, ref: ModelRef, path: str, entry: Entry) -> None:
        self._source, self._ref, self._path, self._entry = source, ref, path, entry
        self._fd: int | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"LocalReader({self._path})"

    def read(self, offset: int, length: int) -> bytes:
        if not length:
            return b""
        with local_errors(self._ref, self._path):
            fd = self._descriptor()
            data = os.pread(fd, length, offset)
            while data and len(data) < length and (more := os.pread(fd, length - len(data), offset + len(data))):
                data += more
            self.recheck()
        if len(data) != length:
            raise changed(self._path, "it is shorter now")
        return data

    def recheck(self, resumed: bool = False) -> None:
        with local_errors(self._ref, self._path):
            if resumed:
                self._descriptor()
            if self._fd is not None and _version(os.fstat(self._fd)) != self._entry.version:
                raise changed(self._path, "it was written to")

    def close(self) -> None:
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def _descriptor(self) -> int:
        with self._lock:
            if self._fd is None:
                fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                # Check the file that was really opened: a link may have been swapped since the listing.
                if not self._source.allows(os.path.realpath(os.readlink(f"/proc/self/fd/{fd}"))):
                    os.close(fd)
                    raise changed(self._path, "it is a link elsewhere now")
                self._fd = fd
            return self._fd


def _walk(place: str) -> Iterator[str]:
    """Yield the files below a folder. Links to folders are not followed, so there are no loops."""

    def refuse(error: OSError) -> None:
        raise error

    count = 0
    for folder, folders, files in os.walk(place, onerror=refuse):
        count += len(folders) + len(files)
        budget.listed(count)
        for name in files:
            yield os.path.relpath(os.path.join(folder, name), place)


def _version(info: os.stat_result) -> str:
    return f"{info.st_dev:x}-{info.st_ino:x}-{info.st_size:x}-{info.st_mtime_ns:x}"


@contextmanager
def local_errors(ref: ModelRef, file: str = "") -> Iterator[None]:
    try:
        yield
    except CachedError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        if file:
            raise changed(file, "it is gone") from None
        raise ModelNotFound(
            f"There are no model files at {ref.uri}: the place does not exist; check the path."
        ) from None
    except PermissionError:
        raise denied(ref, "the daemon's user may not read it; change its permissions") from None
    except OSError as error:
        raise unavailable(ref, error.strerror or "it cannot be read", seen=True) from None
