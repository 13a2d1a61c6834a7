"""The Hub: commits, digests, access, signed links and failures."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import Any

import pytest

from cached.access import Credentials
from cached.config import Config
from cached.errors import (
    CachedError,
    InvalidRequest,
    RevisionNotFound,
    SourceChanged,
    SourceDenied,
    SourceUnavailable,
)
from cached.model import Checksum, Digest, Listing
from cached.model_ref import ModelRef
from cached.sources.hub.source import HubSource
from cached.sources.transport import client
from cached.sources.transport.client import Web
from tests.servers import HubStub
from tests.servers.hub_state import git_sha1

WEIGHTS = os.urandom(700_000)
MODEL = {"config.json": b'{"model_type": "llama"}', "model.safetensors": WEIGHTS, "sub/tokenizer.json": b"[]"}
NOBODY = Credentials()
TOKEN = "hf_canary_0b5a"


@pytest.fixture
def source(hub: HubStub) -> Iterator[HubSource]:
    web = Web(4)
    yield HubSource(Config(hub_endpoint=hub.endpoint, read_timeout=Config().read_timeout), web)
    web.close()


@pytest.fixture
def repo(hub: HubStub, request: pytest.FixtureRequest) -> str:
    name = f"org/{hashlib.md5(request.node.name.encode()).hexdigest()[:12]}"
    hub.repositories.pop(name, None)
    hub.add_commit(name, MODEL)
    return name


def resolve(source: HubSource, repo: str, credentials: Credentials = NOBODY, **asked: Any) -> Listing:
    return source.resolve(ModelRef.parse(repo, **asked), credentials, 5)


def read(source: HubSource, listing: Listing, path: str, credentials: Credentials = NOBODY) -> bytes:
    entry = next(entry for entry in listing.entries if entry.path == path)
    return source.open(listing, entry, credentials).read(0, entry.size)


def token(value: str) -> Credentials:
    return Credentials({"HF_TOKEN": value})


def test_digests_are_known_for_large_files_and_git_sha1_for_small_ones(source: HubSource, repo: str) -> None:
    entries = {entry.path: entry for entry in resolve(source, repo).entries}
    assert entries["model.safetensors"].digest == Digest.of(WEIGHTS)
    assert entries["config.json"].digest is None
    assert entries["config.json"].checksums == (Checksum("git-sha1", git_sha1(MODEL["config.json"])),)


def test_every_kind_of_revision_resolves_to_its_commit(hub: HubStub, source: HubSource, repo: str) -> None:
    first = hub.repositories[repo].refs["main"]
    hub.tag(repo, "v1.0", first)
    second = hub.add_commit(repo, {"config.json": b"{}"}, branch="refs/pr/1")
    third = hub.add_commit(repo, {"config.json": b"[]"})
    asked = {"main": third, "v1.0": first, "refs/pr/1": second, first: first, first[:8]: first}
    assert {name: resolve(source, repo, revision=name).revision for name in asked} == asked
    assert resolve(source, repo).revision == third


def test_one_tree_call_per_commit(hub: HubStub, source: HubSource, repo: str) -> None:
    for _ in range(3):
        resolve(source, repo)
    assert hub.count("/tree/") == 1
    hub.add_commit(repo, {"config.json": b"[]"})
    resolve(source, repo)
    assert hub.count("/tree/") == 2 and hub.count("/revision/main") == 4


def test_long_listing_comes_in_pages(hub: HubStub, source: HubSource, repo: str) -> None:
    hub.page_size = 2
    assert {entry.path for entry in resolve(source, repo).entries} == set(MODEL)
    assert hub.count("/tree/") == 2


def test_token_goes_to_the_hub_and_never_to_the_content_network(hub: HubStub, source: HubSource, repo: str) -> None:
    listing = resolve(source, repo, token(TOKEN))
    assert read(source, listing, "model.safetensors", token(TOKEN)) == WEIGHTS
    sent = {(seen.server, seen.headers.get("authorization")) for seen in hub.requests}
    assert sent == {("hub", f"Bearer {TOKEN}"), ("cdn", None)}
    assert all(TOKEN not in str(seen) for seen in hub.requests if seen.server == "cdn")


def test_daemon_token_serves_callers_without_one(
    hub: HubStub, source: HubSource, repo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.hide(repo, "daemon-token")
    monkeypatch.setenv("HF_TOKEN", "daemon-token")
    assert resolve(source, repo).entries
    for credentials in (token("other"), Credentials(lend=False)):
        with pytest.raises(SourceDenied):
            resolve(source, repo, credentials)


def test_signed_link_is_kept_for_all_ranges_and_renewed_when_it_runs_out(
    hub: HubStub, source: HubSource, repo: str
) -> None:
    listing = resolve(source, repo)
    entry = next(entry for entry in listing.entries if entry.path == "model.safetensors")
    reader = source.open(listing, entry, NOBODY)
    parts = [reader.read(at, 100_000) for at in range(0, 300_000, 100_000)]
    assert hub.count("/resolve/") == 1
    hub.expire_links()
    parts += [reader.read(at, 100_000) for at in range(300_000, 700_000, 100_000)]
    assert b"".join(parts) == WEIGHTS
    assert hub.count("/resolve/") == 2


def test_threads_that_start_together_ask_the_hub_for_one_link(hub: HubStub, source: HubSource, repo: str) -> None:
    listing = resolve(source, repo)
    entry = next(entry for entry in listing.entries if entry.path == "model.safetensors")
    reader = source.open(listing, entry, NOBODY)
    for links in (1, 2):
        with ThreadPoolExecutor(7) as pool:
            parts = list(pool.map(lambda at: reader.read(at, 100_000), range(0, 700_000, 100_000)))
        assert b"".join(parts) == WEIGHTS and hub.count("/resolve/") == links
        hub.expire_links()


def test_only_the_asked_bytes_cross_the_network(hub: HubStub, source: HubSource, repo: str) -> None:
    listing = resolve(source, repo)
    entry = next(entry for entry in listing.entries if entry.path == "model.safetensors")
    source.open(listing, entry, NOBODY).read(1000, 5000)
    assert hub.bytes_served == 5000


def test_missing_private_and_gated_repositories_look_the_same_but_to_the_operator(
    source: HubSource, hub: HubStub
) -> None:
    for name in ("org/private", "org/gated"):
        hub.add_commit(name, {"config.json": b"{}"})
    hub.hide("org/private", "granted")
    hub.gate("org/gated", "granted")
    for credentials in (NOBODY, token(TOKEN)):
        told, said = set(), set()
        for name in ("org/nothing", "org/private", "org/gated"):
            with pytest.raises(SourceDenied, match="does not exist, or you may not read it") as caught:
                listing = resolve(source, name, credentials)
                source.prove(listing, listing.probe, credentials, 10)
            told.add(caught.value.message.replace(name, "NAME"))
            said.add(caught.value.said)
        assert len(told) == 1
        assert len(said) == 2, "a private one is absent, as far as the Hub says; a gated one it names"


def test_missing_revision_is_named(source: HubSource, repo: str) -> None:
    with pytest.raises(RevisionNotFound, match="no revision 'v9'"):
        resolve(source, repo, revision="v9")


def test_unauthorized_without_a_reason_is_denied(hub: HubStub, source: HubSource, repo: str) -> None:
    for status in (401, 403):
        hub.fail(status, headers={"X-Error-Message": "Invalid credentials in Authorization header"})
        with pytest.raises(SourceDenied, match="HF_TOKEN"):
            resolve(source, repo)


def test_gated_repository_is_denied_without_a_grant_even_when_others_have_it(
    hub: HubStub, source: HubSource, repo: str
) -> None:
    hub.gate(repo, "granted")
    listing = resolve(source, repo, token("granted"))
    assert read(source, listing, "model.safetensors", token("granted")) == WEIGHTS
    for credentials in (NOBODY, token("stranger")):
        assert resolve(source, repo, credentials) == listing  # Which a gated repository shows to everybody.
        with pytest.raises(SourceDenied, match="gated"):
            source.prove(listing, listing.probe, credentials, 10)
        with pytest.raises(SourceDenied, match="gated"):
            read(source, listing, "model.safetensors", credentials)


def test_open_repository_costs_no_proof_of_access(hub: HubStub, source: HubSource, repo: str) -> None:
    resolve(source, repo)
    assert hub.count(method="HEAD") == 0


@pytest.mark.parametrize(
    ("said", "meant"),
    [("7", 7.0), ("-5", 0.0), ("1e9", 300.0), ("nonsense", None), (formatdate(0), 0.0), (None, None)],
)
def test_too_many_requests_says_how_long_to_wait(
    hub: HubStub, source: HubSource, repo: str, said: str | None, meant: float | None
) -> None:
    hub.fail(429, headers={"Retry-After": said} if said else None)
    with pytest.raises(SourceUnavailable) as caught:
        resolve(source, repo)
    assert caught.value.retry_after == meant and caught.value.retryable


@pytest.mark.parametrize("part", ["/revision/", "/tree/"])
@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_broken_hub_is_unavailable(hub: HubStub, source: HubSource, repo: str, part: str, status: int) -> None:
    hub.fail(status, part=part)
    with pytest.raises(SourceUnavailable, match=str(status)):
        resolve(source, repo)


def test_something_else_at_the_endpoint_is_unavailable(hub: HubStub, source: HubSource, repo: str) -> None:
    hub.fail(200)
    with pytest.raises(SourceUnavailable, match="JSON"):
        resolve(source, repo)


def test_connection_cut_in_the_middle_of_a_range_is_unavailable(hub: HubStub, source: HubSource, repo: str) -> None:
    listing = resolve(source, repo)
    hub.cut_after(100_000)
    with pytest.raises(SourceUnavailable):
        read(source, listing, "model.safetensors")


def test_hub_that_is_cut_off_is_unavailable(hub: HubStub, source: HubSource, repo: str) -> None:
    listing = resolve(source, repo)
    hub.cut()
    try:
        with pytest.raises(SourceUnavailable):
            resolve(source, repo)
        with pytest.raises(SourceUnavailable):
            read(source, listing, "model.safetensors")
    finally:
        hub.restore()
    assert read(source, listing, "model.safetensors") == WEIGHTS


@pytest.mark.parametrize("path", ["config.json", "model.safetensors"])
def test_mirror_with_other_content_at_the_commit_is_noticed(
    hub: HubStub, source: HubSource, repo: str, path: str
) -> None:
    listing = resolve(source, repo)
    hub.overwritten[repo, listing.revision, path] = MODEL[path] + b"!"
    with pytest.raises(SourceChanged):
        read(source, listing, path)


def test_small_file_of_the_same_size_but_other_content_is_noticed(hub: HubStub, source: HubSource, repo: str) -> None:
    listing = resolve(source, repo)
    hub.overwritten[repo, listing.revision, "config.json"] = MODEL["config.json"][::-1]
    with pytest.raises(SourceChanged):
        read(source, listing, "config.json")


def test_refusal_by_the_content_network_is_not_blamed_on_the_caller(hub: HubStub, source: HubSource, repo: str) -> None:
    listing = resolve(source, repo)
    hub.fail(403, part=Digest.of(WEIGHTS).hex)
    with pytest.raises(SourceUnavailable, match="content network"):
        read(source, listing, "model.safetensors")


def test_hub_does_not_lead_to_a_metadata_service(hub: HubStub, source: HubSource, repo: str) -> None:
    listing = resolve(source, repo)
    hub.fail(302, part="/resolve/", headers={"Location": "http://169.254.169.254/latest/meta-data/"})
    with pytest.raises(InvalidRequest, match="metadata"):
        read(source, listing, "model.safetensors")


def test_token_is_in_no_error(hub: HubStub, source: HubSource, repo: str) -> None:
    for status in (400, 401, 403, 404, 418, 429, 500):
        hub.fail(status)
        with pytest.raises(CachedError) as caught:
            resolve(source, repo, token(TOKEN))
        assert caught.value.__cause__ is None and caught.value.__suppress_context__
        assert TOKEN not in repr(caught.value) and caught.value.message.endswith(".")


@pytest.mark.parametrize("size", ["Infinity", "1e400", "NaN", '"much"', "null"])
def test_a_size_that_is_no_number_is_not_understood(
    hub: HubStub, source: HubSource, repo: str, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    hub.add_commit(repo, {"config.json": b"{}"})
    entry = f'[{{"type": "file", "path": "config.json", "size": {size}, "oid": "{"0" * 40}"}}]'.encode()
    whole = client._whole
    monkeypatch.setattr(
        client, "_whole", lambda answer, *rest: entry if "/tree/" in str(answer.url) else whole(answer, *rest)
    )
    with pytest.raises(SourceUnavailable):
        resolve(source, repo)
