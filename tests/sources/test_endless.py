"""Listings without end: given up at a bound that is said, and as soon as nobody waits for them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from cached.access import Credentials
from cached.budget import SPARE_PAGES, Budget
from cached.config import Config
from cached.errors import InvalidRequest, SourceUnavailable, TooLarge
from cached.model_ref import ModelRef
from cached.paths import MAX_FOLDERS, check_paths
from cached.sources.registry import Registry
from cached.sources.transport import client, pool
from tests.servers import EndlessServer
from tests.servers.azure import ACCOUNT, KEY

FILES = 1000
PLACES = {
    "hub": ("hf://org/endless", "hub_endpoint", {}),
    "s3": ("s3://bucket/endless", "s3_endpoint", {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}),
    "gcs": ("gs://bucket/endless", "gs_endpoint", {}),
    "azure": (
        f"az://bucket@{ACCOUNT}/endless",
        "azure_endpoint",
        {"AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": KEY},
    ),
}
everywhere = pytest.mark.parametrize("kind", PLACES)


@pytest.fixture
def endless() -> Iterator[EndlessServer]:
    with EndlessServer() as server:
        yield server


def resolve(budget: Budget, uri: str, variables: dict[str, str], **settings: Any) -> None:
    ref = ModelRef.parse(uri, include=["*.safetensors"])
    registry = Registry(Config(protocols=(ref.scheme,), **settings))
    try:
        with budget.spent_here():
            registry.source_for(ref).resolve(ref, Credentials(variables), 30)
    finally:
        registry.close()


def ask(kind: str, endless: EndlessServer, budget: Budget) -> None:
    uri, setting, variables = PLACES[kind]
    resolve(budget, uri, variables, **{setting: endless.endpoint})


@everywhere
def test_a_listing_of_too_many_files_is_too_large_whatever_is_wanted_of_it(kind: str, endless: EndlessServer) -> None:
    with pytest.raises(TooLarge, match=r"more than 1,000 files there, .* raise `max_files`\."):
        ask(kind, endless, Budget(FILES, 60))
    assert endless.pages <= FILES // endless.per_page + 1


@everywhere
def test_pages_that_name_nothing_are_counted_too(kind: str, endless: EndlessServer) -> None:
    endless.per_page = 0
    budget = Budget(FILES, 60)
    with pytest.raises(TooLarge, match=rf"more than {budget.max_pages} pages"):
        ask(kind, endless, budget)
    assert endless.pages <= SPARE_PAGES + FILES // 50


@everywhere
def test_nothing_more_is_asked_for_once_nobody_waits(kind: str, endless: EndlessServer) -> None:
    budget = Budget(FILES, 60)
    endless.on_page = lambda page: budget.cancel() if page == 3 else None
    with pytest.raises(SourceUnavailable, match="Nobody waits"):
        ask(kind, endless, budget)
    assert endless.pages == 3


@everywhere
def test_a_listing_that_takes_too_long_is_given_up(
    kind: str, endless: EndlessServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(FILES, 60)
    endless.on_page = lambda page: setattr(budget, "_deadline", 0.0) if page == 3 else None
    with pytest.raises(SourceUnavailable, match=r"for 60 seconds .* raise `listing_timeout`"):
        ask(kind, endless, budget)
    assert endless.pages == 3


def test_a_question_that_nobody_waits_for_any_more_is_not_begun(endless: EndlessServer) -> None:
    budget = Budget(FILES, 60)
    budget.cancel()
    with pytest.raises(SourceUnavailable, match="Nobody waits"):
        ask("hub", endless, budget)
    assert endless.pages == 0


def test_one_page_may_not_be_of_any_length(endless: EndlessServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "MAX_TEXT", 1000)
    monkeypatch.setattr(client, "MAX_JSON_BYTES", 1000)
    for kind in ("s3", "gcs", "hub"):
        endless.pages = 0
        with pytest.raises(SourceUnavailable, match="too long"):
            ask(kind, endless, Budget(FILES, 60))
        assert endless.pages == 1  # Nor is it asked for again by another client, which would read it all.


def test_all_pages_together_may_not_be_of_any_length(endless: EndlessServer) -> None:
    for kind in ("s3", "gcs", "hub"):
        budget = Budget(FILES, 60)
        budget.max_bytes = 30_000
        with pytest.raises(TooLarge, match="more than 30,000 bytes"):
            ask(kind, endless, budget)


def test_folders_of_the_node_and_other_file_systems_are_counted_as_they_are_walked(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"d{number}").mkdir()
        (tmp_path / f"d{number}" / "file").touch()
    store = fsspec.filesystem("memory")
    for number in range(30):
        store.pipe(f"/endless/d{number}/file", b"x")
    for uri, settings in ((f"file://{tmp_path}", {"file_roots": (str(tmp_path),)}), ("memory://endless", {})):
        with pytest.raises(TooLarge, match="more than 40 files"):
            resolve(Budget(40, 60), uri, {}, **settings)


def test_what_hangs_in_a_file_system_holds_nobody_up_once_nobody_waits(tmp_path: Path) -> None:
    budget, hanging = Budget(FILES, 60), threading.Event()

    class Hanging(fsspec.AbstractFileSystem):  # type: ignore[misc]
        protocol = "hanging"

        def info(self, path: str, **options: Any) -> Any:
            budget.cancel()
            hanging.wait(60)

    fsspec.register_implementation("hanging", Hanging, clobber=True)
    with pytest.raises(SourceUnavailable, match="Nobody waits"):
        resolve(budget, "hanging://x/y", {})
    assert not hanging.is_set()
    hanging.set()


def test_deep_paths_do_not_make_millions_of_folders() -> None:
    with pytest.raises(InvalidRequest, match=f"more than {MAX_FOLDERS:,} folders"):
        check_paths(f"{number}/{'/'.join('abcdefgh')}/x" for number in range(MAX_FOLDERS))
