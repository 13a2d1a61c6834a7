"""One way to speak to every kind of remote, so that one suite runs against all of them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec

from cached.access import Credentials
from cached.config import Config
from cached.model import Entry, Listing
from cached.model_ref import ModelRef
from cached.sources.registry import Registry
from cached.sources.source import Source
from tests.servers import GcsEmulator, HubStub, Moto, RcloneS3
from tests.servers.azure import AzureServer

_names = itertools.count()

# What a remote may list and no node may write. Not every server can hold all of them.
HOSTILE = ("../escape", "a/../../escape", "a\\b", "a/./b", "tab\there", "nul", "trailing.", "x" * 300)


@dataclass
class Remote:
    """`place(name)` is the URI of a fresh place; `write(uri, path, data)` puts one file there."""

    name: str
    settings: Mapping[str, Any]
    place: Callable[[str], str]
    write: Callable[[str, str, bytes], None]
    delete: Callable[[str, str], None]
    credentials: Credentials = field(default_factory=Credentials)
    hostile: tuple[str, ...] = HOSTILE
    single: bool = True  # Whether a URI may name one file.
    endpoint: str = ""  # The setting that holds the endpoint; empty when there is none.
    registries: dict[str, Registry] = field(default_factory=dict)

    def new(self, files: Mapping[str, bytes]) -> str:
        uri = self.place(f"place{next(_names)}")
        for path, data in files.items():
            self.write(uri, path, data)
        return uri

    def source(self, ref: ModelRef, **settings: Any) -> Source:
        """One registry for each set of settings, as in a daemon."""
        key = repr(sorted(settings.items()))
        if key not in self.registries:
            self.registries[key] = Registry(Config(**{"protocols": (ref.scheme,), **self.settings, **settings}))
        return self.registries[key].source_for(ref)

    def resolve(self, uri: str, timeout: float = 10, **patterns: Any) -> Listing:
        ref = ModelRef.parse(uri, **patterns)
        return self.source(ref).resolve(ref, self.credentials, timeout)

    def read(self, listing: Listing, entry: Entry, step: int = 1 << 20) -> bytes:
        reader = self.source(listing.ref).open(listing, entry, self.credentials)
        try:
            data = b"".join(reader.read(at, min(step, entry.size - at)) for at in range(0, entry.size, step))
            reader.recheck()
            return data
        finally:
            reader.close()

    def close(self) -> None:
        while self.registries:
            self.registries.popitem()[1].close()


def s3(name: str, server: Moto | RcloneS3, *, versioned: bool = False) -> Remote:
    def place(name: str) -> str:
        return f"s3://{server.bucket('versioned' if versioned else 'models', versioned=versioned)}/{name}/llama"

    def parts(uri: str) -> tuple[str, str]:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        return bucket, prefix

    def write(uri: str, path: str, data: bytes) -> None:
        bucket, prefix = parts(uri)
        server.put(bucket, f"{prefix}/{path}", data)

    def delete(uri: str, path: str) -> None:
        bucket, prefix = parts(uri)
        server.delete(bucket, f"{prefix}/{path}")

    moto = isinstance(server, Moto)
    return Remote(
        name=name,
        settings={"s3_endpoint": server.endpoint},
        place=place,
        write=write,
        delete=delete,
        credentials=Credentials(server.credentials),
        hostile=HOSTILE if moto else ("nul", "trailing.", "a\\b"),
        endpoint="s3_endpoint",
    )


def gcs(server: GcsEmulator) -> Remote:
    def write(uri: str, path: str, data: bytes) -> None:
        bucket, _, prefix = uri.removeprefix("gs://").partition("/")
        server.put(bucket, f"{prefix}/{path}", data)

    def delete(uri: str, path: str) -> None:
        bucket, _, prefix = uri.removeprefix("gs://").partition("/")
        server.delete(bucket, f"{prefix}/{path}")

    return Remote(
        name="gcs",
        settings={"gs_endpoint": server.endpoint},
        place=lambda name: f"gs://{server.bucket('models')}/{name}/llama",
        write=write,
        delete=delete,
        hostile=tuple(name for name in HOSTILE if ".." not in name),
        endpoint="gs_endpoint",
    )


def azure(server: AzureServer) -> Remote:
    def parts(uri: str, path: str) -> tuple[str, str]:
        return "models", f"{uri.partition('://')[2].partition('/')[2]}/{path}"

    def place(name: str) -> str:
        server.bucket("models")
        return f"abfss://models@{server.account}.dfs.core.windows.net/{name}/llama"

    return Remote(
        name="azure",
        settings={"azure_endpoint": server.endpoint},
        place=place,
        write=lambda uri, path, data: server.put(*parts(uri, path), data),
        delete=lambda uri, path: server.delete(*parts(uri, path)),
        credentials=Credentials(server.credentials),
        hostile=("nul", "trailing."),
        endpoint="azure_endpoint",
    )


def hub(server: HubStub) -> Remote:
    def delete(uri: str, path: str) -> None:
        repo = uri.removeprefix("hf://")
        repository = server.repositories[repo]
        files = {**repository.commits[repository.refs["main"]]}
        del files[path]
        server.add_commit(repo, files, keep=False)

    def write(uri: str, path: str, data: bytes) -> None:
        server.add_commit(uri.removeprefix("hf://"), {path: data})

    def place(name: str) -> str:
        server.add_commit(f"org/{name}", {})
        return f"hf://org/{name}"

    return Remote(
        name="hub",
        settings={"hub_endpoint": server.endpoint},
        place=place,
        write=write,
        delete=delete,
        single=False,
        endpoint="hub_endpoint",
    )


def folder(root: Path) -> Remote:
    def write(uri: str, path: str, data: bytes) -> None:
        target = Path(uri.removeprefix("file://")) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)  # In place: the harder case for a reader that holds the file open.

    def place(name: str) -> str:
        (root / name).mkdir()
        return f"file://{root / name}"

    return Remote(
        name="file",
        settings={"file_roots": (str(root),)},
        place=place,
        write=write,
        delete=lambda uri, path: os.unlink(Path(uri.removeprefix("file://")) / path),
        hostile=("a\\b", "tab\there", "nul", "trailing."),
    )


def memory() -> Remote:
    store = fsspec.filesystem("memory")

    def place(name: str) -> str:
        store.makedirs(f"/{name}/llama")
        return f"memory://{name}/llama"

    return Remote(
        name="memory",
        settings={},
        place=place,
        write=lambda uri, path, data: store.store.update(
            {_memory_path(uri, path): _memory_file(store, uri, path, data)}
        ),
        delete=lambda uri, path: store.rm_file(_memory_path(uri, path)),
    )


def _memory_path(uri: str, path: str) -> str:
    return f"/{uri.removeprefix('memory://')}/{path}"


def _memory_file(store: Any, uri: str, path: str, data: bytes) -> Any:
    from fsspec.implementations.memory import MemoryFile

    return MemoryFile(store, _memory_path(uri, path), data)
