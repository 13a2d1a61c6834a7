"""What a proof of access is worth: the file of the listing, at its version, read by these credentials and no others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from cached.access import Credentials
from cached.config import Config
from cached.errors import SourceChanged, SourceDenied, SourceUnavailable
from cached.model import Entry, Listing
from cached.model_ref import ModelRef
from cached.sources.azure.source import AzureSource
from cached.sources.gcs.source import GcsSource
from cached.sources.hub.source import HubSource
from cached.sources.s3.source import S3Source
from cached.sources.transport.blocked_hosts import Addresses
from cached.sources.transport.client import Web
from cached.sources.url import HttpSource
from tests.servers import AzureStub, Files, GcsEmulator, GuardedGcs, GuardedS3, HubStub, Moto
from tests.servers.azure import ACCOUNT
from tests.sources.remotes import Remote
from tests.sources.test_conformance import EVERY, MODEL

every = pytest.mark.parametrize("remote", EVERY, indirect=True)
WEIGHTS = os.urandom(1000)
B = Credentials({"AWS_ACCESS_KEY_ID": "AKIAB", "AWS_SECRET_ACCESS_KEY": "secret"})


@pytest.fixture
def web() -> Iterator[Web]:
    with_connections = Web(4)
    yield with_connections
    with_connections.close()


def entry_of(listing: Listing, path: str) -> Entry:
    return next(entry for entry in listing.entries if entry.path == path)


@every
@pytest.mark.parametrize("path", ["model.safetensors", "empty.txt"])
def test_whoever_may_read_a_file_proves_it(remote: Remote, path: str) -> None:
    listing = remote.resolve(remote.new({**MODEL, "empty.txt": b""}))
    remote.source(listing.ref).prove(listing, entry_of(listing, path), remote.credentials, 10)


@every
@pytest.mark.parametrize("path", ["model.safetensors", "empty.txt"])
def test_a_proof_of_another_version_is_no_proof(remote: Remote, path: str) -> None:
    """The version that is there is another one than the listing names, in each of the ways in which it can be told."""
    listing = remote.resolve(remote.new({**MODEL, "empty.txt": b""}))
    entry = entry_of(listing, path)
    with pytest.raises(SourceChanged):
        remote.source(listing.ref).prove(listing, replace(entry, version=_other(entry.version)), remote.credentials, 10)


def _other(version: str) -> str:
    """Of the same form: an ETag, a number or a date."""
    kind, separator, value = version.rpartition("=") if "=" in version else ("", "", version)
    tag, blank, date = value.partition(" ")
    if blank and not tag:
        return f" 2001{date[4:]}"
    changed = "".join({"1": "2", "a": "b"}.get(char, "1" if char.isdigit() else char) for char in tag)
    return f"{kind}{separator}{changed}{blank}{date}"


@every
def test_overwritten_since_is_no_proof(remote: Remote) -> None:
    uri = remote.new(MODEL)
    listing = remote.resolve(uri)
    entry = entry_of(listing, "model.safetensors")
    remote.write(uri, "model.safetensors", os.urandom(300_001))
    if remote.name in ("hub", "rclone", "rclone-untagged"):
        return  # A commit stays. rclone tells no more than the second in which it was written.
    with pytest.raises(SourceChanged):
        remote.source(listing.ref).prove(listing, entry, remote.credentials, 10)


@every
def test_what_is_absent_is_denied(remote: Remote) -> None:
    listing = remote.resolve(remote.new(MODEL))
    absent = replace(entry_of(listing, "model.safetensors"), path="nothing.safetensors")
    with pytest.raises(SourceDenied, match="does not exist, or you may not read it"):
        remote.source(listing.ref).prove(listing, absent, remote.credentials, 10)


@pytest.mark.parametrize("remote", ["memory", "rclone"], indirect=True)
def test_one_whom_the_daemons_own_credentials_do_not_serve_proves_nothing_with_them(remote: Remote) -> None:
    listing = remote.resolve(remote.new(MODEL))
    with pytest.raises(SourceDenied):
        remote.source(listing.ref).prove(listing, listing.entries[0], Credentials(lend=False), 10)


def test_at_a_url_a_proof_is_of_the_version_that_was_listed() -> None:
    with Files({"/model.gguf": WEIGHTS}) as files:
        web = Web(4, Addresses(["127.0.0.0/8"]))
        source, ref = HttpSource(Config(protocols=("http",)), web), ModelRef.parse(f"{files.endpoint}/model.gguf")
        listing = source.resolve(ref, Credentials(), 10)
        source.prove(listing, listing.entries[0], Credentials(), 10)
        files.files["/model.gguf"] = os.urandom(1000)
        with pytest.raises(SourceChanged):
            source.prove(listing, listing.entries[0], Credentials(), 10)
        del files.files["/model.gguf"]
        with pytest.raises(SourceDenied):
            source.prove(listing, listing.entries[0], Credentials(), 10)
        source.close()
        web.close()


@pytest.fixture
def guarded(moto: Moto) -> Iterator[GuardedS3]:
    with GuardedS3(moto.endpoint) as front:
        yield front


@pytest.mark.parametrize("proxied", [False, True], ids=["fast", "slow"])
@pytest.mark.parametrize("way", ["reads", "heads_only"])
def test_in_s3_credentials_that_list_and_do_not_read_prove_nothing(
    moto: Moto, guarded: GuardedS3, way: str, proxied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if proxied:
        monkeypatch.setattr("cached.sources.transport.pool.Lanes._behind_proxy", lambda *_: True)
    moto.put("proofs", "team/a/w.bin", WEIGHTS)
    moto.put("proofs", "team/b/w.bin", WEIGHTS)
    reads, heads = (["proofs/team/b/"], []) if way == "reads" else (["proofs/"], ["proofs/team/a/"])
    guarded.allow("AKIAB", lists=["proofs/"], reads=reads, heads_only=heads)
    source = S3Source(Config(s3_endpoint=guarded.endpoint))
    listing = source.resolve(ModelRef.parse("s3://proofs/team"), B, 10)
    assert listing.rights_per_file and not listing.open
    source.prove(listing, entry_of(listing, "b/w.bin"), B, 10)
    with pytest.raises(SourceDenied):
        source.prove(listing, entry_of(listing, "a/w.bin"), B, 10)
    source.close()


@pytest.mark.parametrize("proxied", [False, True], ids=["fast", "slow"])
@pytest.mark.parametrize("data", [WEIGHTS, b""], ids=["full", "empty"])
def test_in_s3_another_version_is_told_on_both_lanes(
    moto: Moto, data: bytes, proxied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if proxied:
        monkeypatch.setattr("cached.sources.transport.pool.Lanes._behind_proxy", lambda *_: True)
    moto.put("proofs", "version/w.bin", data)
    source, caller = S3Source(Config(s3_endpoint=moto.endpoint)), Credentials(moto.credentials)
    listing = source.resolve(ModelRef.parse("s3://proofs/version"), caller, 10)
    source.prove(listing, listing.entries[0], caller, 10)
    moto.put("proofs", "version/w.bin", b"another")
    with pytest.raises(SourceChanged):
        source.prove(listing, listing.entries[0], caller, 10)
    source.close()


def test_in_gcs_credentials_that_list_and_do_not_read_prove_nothing(gcs: GcsEmulator, web: Web) -> None:
    gcs.put("proofs", "team/a/w.bin", WEIGHTS)
    gcs.put("proofs", "team/b/w.bin", WEIGHTS)
    with GuardedGcs(gcs.endpoint) as front:
        front.allow("", lists=["proofs/"], reads=["proofs/team/b/"])
        source = GcsSource(Config(gs_endpoint=front.endpoint), web)
        listing = source.resolve(ModelRef.parse("gs://proofs/team"), Credentials(), 10)
        assert listing.rights_per_file
        source.prove(listing, entry_of(listing, "b/w.bin"), Credentials(), 10)
        with pytest.raises(SourceDenied):
            source.prove(listing, entry_of(listing, "a/w.bin"), Credentials(), 10)
        source.close()


def test_in_azure_credentials_that_list_and_do_not_read_prove_nothing(azure: AzureStub) -> None:
    azure.put("proofs", "m/w.bin", WEIGHTS)
    source = AzureSource(Config(azure_endpoint=azure.endpoint), "abfss")
    reader, lister = (Credentials({"AZURE_STORAGE_SAS_TOKEN": token}) for token in (azure.sas, azure.lister))
    listing = source.resolve(ModelRef.parse(f"abfss://proofs@{ACCOUNT}/m"), lister, 10)
    assert listing.rights_per_file and not listing.open
    source.prove(listing, listing.entries[0], reader, 10)
    with pytest.raises(SourceDenied):
        source.prove(listing, listing.entries[0], lister, 10)
    source.close()


# The Hub: a right is the repository's.

GATED = {"README.md": b"# for all", ".gitattributes": b"*", "config.json": b"{}", "model.safetensors": WEIGHTS}


@pytest.fixture
def at_hub(hub: HubStub, web: Web) -> Iterator[HubSource]:
    hub.repositories.clear()
    source = HubSource(Config(hub_endpoint=hub.endpoint), web)
    yield source
    source.close()


def resolve(source: HubSource, *include: str, token: str = "") -> Listing:
    return source.resolve(ModelRef.parse("org/gated", include=include), _token(token), 10)


def _token(value: str) -> Credentials:
    return Credentials({"HF_TOKEN": value} if value else {}, lend=False)


@pytest.mark.parametrize(
    "include",
    [(), ("*",), ("README.md", "*.safetensors"), ("config.json",), ("README.md", ".gitattributes")],
    ids=lambda include: " ".join(include) or "everything",
)
def test_of_a_gated_repository_what_the_caller_selects_does_not_decide_what_is_proved(
    hub: HubStub, at_hub: HubSource, include: tuple[str, ...]
) -> None:
    hub.add_commit("org/gated", GATED)
    hub.gate("org/gated", "granted")
    listing = resolve(at_hub, *include)
    assert listing.probe is not None and listing.probe.path == "model.safetensors"
    at_hub.prove(listing, listing.probe, _token("granted"), 10)
    for stranger in ("", "another"):
        with pytest.raises(SourceDenied):
            at_hub.prove(listing, listing.probe, _token(stranger), 10)


@pytest.mark.parametrize(
    ("files", "include", "probe"),
    [
        ({"a.safetensors": b"1", "b.safetensors": b"22", "big.json": b"3" * 9}, (), "b.safetensors"),
        (
            {"README.md": b"1" * 9, "docs/Readme.MD": b"1" * 9, "config.json": b"{}", ".gitattributes": b"*"},
            (),
            "config.json",
        ),
        ({"README.md": b"1", "config.json": b"{}"}, ("README.md",), "README.md"),
        ({"README.md": b"1" * 9, ".gitattributes": b"*"}, (), ".gitattributes"),
        ({"a.safetensors": b"1", "nul.safetensors": b"22"}, ("a*",), "a.safetensors"),
    ],
    ids=["the largest of LFS", "no README in any folder and case", "the README alone", "the least free", "a safe name"],
)
def test_what_is_proved_at_the_hub_is_the_largest_file_that_is_not_everybodys(
    hub: HubStub, at_hub: HubSource, files: dict[str, bytes], include: tuple[str, ...], probe: str
) -> None:
    hub.add_commit("org/gated", files)
    found = resolve(at_hub, *include).probe
    assert found is not None and found.path == probe


def test_the_hub_gives_the_readme_of_a_gated_repository_to_everybody(hub: HubStub, at_hub: HubSource) -> None:
    """So a proof by it would open the weights to everybody."""
    hub.add_commit("org/gated", GATED)
    hub.gate("org/gated", "granted")
    listing = resolve(at_hub)
    at_hub.prove(listing, entry_of(listing, "README.md"), _token(""), 10)
    with pytest.raises(SourceDenied):
        at_hub.prove(listing, entry_of(listing, "config.json"), _token(""), 10)


def test_a_listing_whose_object_is_absent_proves_nothing(hub: HubStub, at_hub: HubSource) -> None:
    hub.point("org/gated", "model.safetensors", "ab" * 32, 5000)
    listing = resolve(at_hub)
    assert listing.entries[0].size == 5000 and listing.entries[0].digest is not None
    with pytest.raises(SourceDenied):
        at_hub.prove(listing, listing.entries[0], _token(""), 10)


@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("how", ["commit", "content"])
def test_a_hub_that_serves_another_version_proves_nothing(hub: HubStub, at_hub: HubSource, path: str, how: str) -> None:
    """Also where the answer leads away from the Hub."""
    hub.add_commit("org/gated", GATED)
    hub.gate("org/gated", "granted")
    listing = resolve(at_hub)
    repository = hub.repositories["org/gated"]
    if how == "content":  # A mirror that keeps the name of the commit and has other files.
        repository.commits[listing.revision] = {**GATED, path: os.urandom(len(GATED[path]))}
    else:
        later = hub.add_commit("org/gated", {"more.json": b"{}"})
        repository.commits[listing.revision] = repository.commits.pop(later)
        repository.refs["main"] = listing.revision
        listing = Listing(listing.ref, listing.place, listing.revision, listing.entries, probe=listing.probe)
        listing = listing.part(tuple(replace(entry, version="f" * 40) for entry in listing.entries))
    with pytest.raises(SourceChanged):
        at_hub.prove(listing, entry_of(listing, path), _token("granted"), 10)


def test_a_mirror_that_names_no_version_is_believed_by_its_commit(hub: HubStub, at_hub: HubSource) -> None:
    hub.add_commit("org/gated", GATED)
    hub.gate("org/gated", "granted")
    listing = resolve(at_hub)
    hub.tagless = True
    for path in ("model.safetensors", "config.json"):
        at_hub.prove(listing, entry_of(listing, path), _token("granted"), 10)
        with pytest.raises(SourceDenied):
            at_hub.prove(listing, entry_of(listing, path), _token("another"), 10)


def test_throttling_is_not_an_outage_and_what_broke_is(hub: HubStub, at_hub: HubSource) -> None:
    hub.add_commit("org/gated", GATED)
    listing = resolve(at_hub)
    seen = {}
    for status in (429, 500, 503):
        hub.fail(status)
        with pytest.raises(SourceUnavailable) as caught:
            at_hub.prove(listing, listing.entries[0], _token(""), 10)
        seen[status] = caught.value.seen
    assert seen == {429: False, 500: True, 503: True}
