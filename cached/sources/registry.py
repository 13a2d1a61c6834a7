"""The entry point to sources: the protocols that are allowed, and the code that serves each."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from cached.config import Config
from cached.errors import InvalidRequest
from cached.model_ref import ModelRef
from cached.sources.local_files import LocalSource
from cached.sources.source import Source
from cached.uris import AZURE_SCHEMES

if TYPE_CHECKING:
    from cached.sources.transport.client import Web

log = logging.getLogger("cached.sources")


# Protocols of fsspec whose paths are URLs of any protocol, or of files that no setting has opened.
_WRAPPERS = frozenset({"generic", "async_wrapper", "asyncwrapper", "asynclocal", "dir", "cached"}) | {
    *("blockcache", "filecache", "simplecache", "reference", "zip", "tar", "libarchive", "git", "dask"),
}


class _Closable(Source, Protocol):
    def close(self) -> None: ...


class Registry:
    """The sources by scheme. Safe to use from several threads. Code that is not preloaded is imported at its first use,
    for up to a second."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._sources: dict[str, _Closable] = {}
        self._lock = threading.Lock()
        self._web: Web | None = None

    def source_for(self, ref: ModelRef) -> Source:
        """Return the ref's source. Raise InvalidRequest if its scheme or, for file://, its folder is not allowed."""
        scheme = ref.scheme
        if scheme not in self._config.protocols:
            allowed = ", ".join(self._config.protocols) or "none"
            raise InvalidRequest(
                f"The scheme of {scheme}:// is not allowed here; the setting 'protocols' has: {allowed}."
            )
        if scheme in _WRAPPERS:
            raise InvalidRequest(f"{scheme}:// reads what other protocols name, past their rules; name those.")
        with self._lock:
            if scheme not in self._sources:
                self._sources[scheme] = self._make(scheme)
            source = self._sources[scheme]
        if isinstance(source, LocalSource):
            source.check(ref)
        return source

    def preload(self) -> None:
        """Do the work that the first model would wait for: imports, certificates, botocore's data files.

        Nothing is connected, so a process may be forked afterwards. GCS is left until it is needed: 30 MB alone.
        """
        for scheme in ("hf", "s3"):
            if scheme in self._config.protocols:
                try:
                    self._preload(scheme)
                except Exception:  # A missing library, a wrong certificate file: other protocols work without it.
                    log.exception("source.broken", extra={"scheme": scheme})

    def _preload(self, scheme: str) -> None:
        with self._lock:
            if scheme not in self._sources:
                self._sources[scheme] = self._make(scheme)
        if scheme == "s3":
            importlib.import_module("cached.sources.s3.session").preload()

    def close(self) -> None:
        with self._lock:
            for source in self._sources.values():
                source.close()
            self._sources.clear()
            if self._web is not None:
                self._web.close()
                self._web = None

    def _make(self, scheme: str) -> _Closable:
        factory: Callable[[], _Closable] = {
            "hf": self._hub,
            "s3": self._s3,
            "gs": self._gcs,
            "http": self._http,
            "https": self._http,
            "file": self._local,
            "local": self._local,  # fsspec's other name for it; it must not become a way around file_roots.
            **dict.fromkeys(AZURE_SCHEMES, lambda: self._azure(scheme)),
        }.get(scheme, lambda: self._filesystem(scheme))
        return factory()

    # Each factory imports its libraries itself: together they take 100 MB and half a second, and a node that allows,
    # or uses, one kind of source should not pay for all of them.

    def _hub(self) -> _Closable:
        from cached.sources.hub.source import HubSource

        return HubSource(self._config, self._shared_web())

    def _s3(self) -> _Closable:
        from cached.sources.s3.source import S3Source

        return S3Source(self._config)

    def _gcs(self) -> _Closable:
        from cached.sources.gcs.source import GcsSource

        return GcsSource(self._config, self._shared_web())

    def _azure(self, scheme: str) -> _Closable:
        try:
            from cached.sources.azure.source import AzureSource
        except ImportError:
            raise InvalidRequest(
                f"{scheme}:// needs a package that the daemon does not have: pip install adlfs into its environment."
            ) from None
        return AzureSource(self._config, scheme)

    def _http(self) -> _Closable:
        from cached.sources.url import HttpSource

        return HttpSource(self._config, self._shared_web())

    def _local(self) -> _Closable:
        return LocalSource(self._config)

    def _filesystem(self, scheme: str) -> _Closable:
        from cached.sources.fsspec_source import FilesystemSource

        return FilesystemSource(self._config, scheme)

    def _shared_web(self) -> Web:
        from cached.sources.transport.blocked_hosts import Addresses
        from cached.sources.transport.client import Web

        if self._web is None:
            self._web = Web(self._config.connections, Addresses(self._config.private_networks))
        return self._web
