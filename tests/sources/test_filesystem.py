"""Any fsspec protocol: what is done where fsspec itself promises nothing."""

from __future__ import annotations

import threading
import time
from typing import Any

import fsspec
import pytest

from cached.access import Credentials
from cached.config import Config
from cached.errors import InvalidRequest, SourceDenied, SourceUnavailable
from cached.model_ref import ModelRef
from cached.sources.fsspec_source import FilesystemSource
from cached.sources.registry import Registry

NOBODY = Credentials()
REF = ModelRef.parse("stuck://host/model")


class StuckFileSystem(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """Answers when it is let go, or raises what it was told to."""

    protocol = "stuck"
    cachable = False
    made = 0
    let_go = threading.Event()
    error: Exception | None = None

    def __init__(self, password: str = "", **options: Any) -> None:
        super().__init__(**options)
        type(self).made += 1

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        if self.error:
            raise self.error
        self.let_go.wait()
        return {"name": path, "size": 3, "type": "file", "mtime": 1}


@pytest.fixture(autouse=True)
def registered() -> None:
    fsspec.register_implementation("stuck", StuckFileSystem, clobber=True)
    StuckFileSystem.made, StuckFileSystem.let_go, StuckFileSystem.error = 0, threading.Event(), None


def source(**options: object) -> FilesystemSource:
    return FilesystemSource(Config(source_options={"stuck": options}), "stuck")


def test_call_that_hangs_is_given_up_and_the_next_one_gets_a_fresh_connection() -> None:
    stuck = source()
    began = time.monotonic()
    with pytest.raises(SourceUnavailable, match="in time"):
        stuck.resolve(REF, NOBODY, 0.3)
    assert time.monotonic() - began < 2
    StuckFileSystem.let_go.set()
    assert [entry.path for entry in stuck.resolve(REF, NOBODY, 5).entries] == ["model"]
    assert StuckFileSystem.made == 2


class AuthenticationFailed(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "meant"),
    [
        (PermissionError("SECRET"), SourceDenied),
        (AuthenticationFailed("SECRET"), SourceDenied),
        (ConnectionResetError("SECRET"), SourceUnavailable),
        (EOFError("SECRET"), SourceUnavailable),
        (RuntimeError("SECRET"), SourceUnavailable),
    ],
)
def test_foreign_errors_become_ours_without_their_words(error: Exception, meant: type[Exception]) -> None:
    StuckFileSystem.error = error
    with pytest.raises(meant) as caught:
        source(password="SECRET").resolve(REF, NOBODY, 5)
    assert "SECRET" not in str(caught.value) and caught.value.__suppress_context__


@pytest.mark.parametrize("uri", ["ftp://169.254.169.254/m", "sftp://other/m", "webhdfs://127.0.0.1:9870/m"])
def test_a_uri_chooses_no_host(uri: str) -> None:
    ref = ModelRef.parse(uri)
    options = {ref.scheme: {"host": "operators.test"}}
    source = Registry(Config(protocols=(ref.scheme,), source_options=options)).source_for(ref)
    with pytest.raises(InvalidRequest):
        source.resolve(ref, Credentials(), 5)


@pytest.mark.parametrize("scheme", ["generic", "asynclocal", "simplecache", "reference", "zip"])
def test_a_protocol_that_reads_by_others_is_no_way_around_their_rules(scheme: str) -> None:
    ref = ModelRef.parse(f"{scheme}:///etc")
    with pytest.raises(InvalidRequest, match="past their rules"):
        Registry(Config(protocols=(scheme,))).source_for(ref)
