"""What only Azure has: containers of accounts, and four kinds of credentials."""

from __future__ import annotations

import base64
import itertools
import os
import sys
from collections.abc import Iterator

import pytest

from cached.access import Credentials
from cached.config import Config
from cached.errors import CachedError, InvalidRequest, ModelNotFound, SourceChanged, SourceDenied
from cached.model import Listing
from cached.model_ref import ModelRef
from cached.sources.azure.source import AzureSource
from cached.sources.registry import Registry
from cached.uris import AZURE_SCHEMES
from tests.servers import AzureStub, Files
from tests.servers.azure import ACCOUNT, KEY

OLD, NEW = os.urandom(200_000), os.urandom(200_000)
NOBODY = Credentials()
OTHER_KEY = base64.b64encode(b"another key").decode()
_containers = itertools.count()


@pytest.fixture
def source(azure: AzureStub) -> Iterator[AzureSource]:
    found = AzureSource(Config(azure_endpoint=azure.endpoint), "abfss")
    azure.requests.clear()
    yield found
    found.close()


@pytest.fixture
def container(azure: AzureStub) -> str:
    name = f"container{next(_containers)}"
    azure.put(name, "m/w.bin", OLD)
    return name


def uri(container: str, scheme: str = "abfss", host: str = ".dfs.core.windows.net") -> str:
    return f"{scheme}://{container}@{ACCOUNT}{host}/m"


def resolve(source: AzureSource, uri: str, credentials: Credentials) -> Listing:
    return source.resolve(ModelRef.parse(uri), credentials, 10)


def with_key(**more: str) -> Credentials:
    return Credentials({"AZURE_STORAGE_ACCOUNT_KEY": KEY, **more})


def test_every_spelling_of_a_container_is_one_place(azure: AzureStub, container: str) -> None:
    hosts = ("", ".dfs.core.windows.net", ".blob.core.windows.net")
    places = set()
    for scheme, host in itertools.product(AZURE_SCHEMES, hosts):
        registry = Registry(Config(protocols=(scheme,), azure_endpoint=azure.endpoint))
        ref = ModelRef.parse(uri(container, scheme, host))
        places.add(registry.source_for(ref).resolve(ref, with_key(), 10).place)
        registry.close()
    assert places == {f"azure://{azure.endpoint[7:]}/{ACCOUNT}/{container}/m"}


@pytest.mark.parametrize(
    "place",
    [
        "container",
        "container@",
        f"{ACCOUNT}.dfs.core.windows.net/container",
        "container@169.254.169.254",
        "container@evil.example",
        "container@account.dfs.core.windows.net.evil.example",
        "container@account.dfs.core.windows.net:8080",
        "user:password@container@account",
    ],
)
def test_a_uri_may_not_choose_another_host_than_its_accounts(source: AzureSource, place: str) -> None:
    with pytest.raises(InvalidRequest, match=r"abfss://container@account\.dfs\.core\.windows\.net/prefix"):
        resolve(source, f"abfss://{place}/m", with_key())


def test_a_callers_connection_string_gives_its_key_and_not_its_endpoint(
    azure: AzureStub, source: AzureSource, container: str
) -> None:
    text = f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint=http://169.254.169.254/"
    listing = resolve(source, uri(container), Credentials({"AZURE_STORAGE_CONNECTION_STRING": text}))
    assert azure.endpoint[7:] in listing.place
    assert {how for _, _, how in azure.requests} == {"SharedKey"}


def test_a_callers_token_is_used_though_the_daemon_has_a_key(
    azure: AzureStub, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", f"AccountName={ACCOUNT};AccountKey={KEY}")
    source = AzureSource(Config(azure_endpoint=azure.endpoint), "abfss")
    azure.requests.clear()
    assert resolve(source, uri(container), Credentials({"AZURE_STORAGE_SAS_TOKEN": f"?{azure.sas}"})).size == len(OLD)
    assert {how for _, _, how in azure.requests} == {"sas"}
    with pytest.raises(SourceDenied):
        resolve(source, uri(container), Credentials({"AZURE_STORAGE_SAS_TOKEN": "sv=1&sig=wrong"}))
    with pytest.raises(SourceDenied):
        resolve(source, uri(container), Credentials(lend=False))
    assert resolve(source, uri(container), NOBODY).size == len(OLD)
    source.close()


@pytest.mark.parametrize("where", ["environment", "source_options"])
def test_the_daemons_own_key_serves_those_to_whom_it_is_lent(
    azure: AzureStub, container: str, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    options = {"abfss": {"account_key": KEY}} if where == "source_options" else {}
    if where == "environment":
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    source = AzureSource(Config(azure_endpoint=azure.endpoint, source_options=options), "abfss")
    listing = resolve(source, uri(container), NOBODY)
    assert (listing.size, listing.open) == (len(OLD), False)
    source.close()


def test_a_public_container_is_open_to_everybody(azure: AzureStub, source: AzureSource) -> None:
    azure.bucket("public", public=True)
    azure.put("public", "m/w.bin", OLD)
    azure.requests.clear()
    listing = resolve(source, uri("public"), Credentials(lend=False))
    assert listing.open
    assert {how for _, _, how in azure.requests} == {""}


@pytest.mark.parametrize(
    "variables",
    [
        {"AZURE_STORAGE_ACCOUNT_KEY": OTHER_KEY},
        {"AZURE_STORAGE_ACCOUNT_KEY": "no key!"},
        {"AZURE_STORAGE_ACCOUNT_KEY": KEY, "AZURE_STORAGE_ACCOUNT_NAME": "other"},
        {"AZURE_STORAGE_SAS_TOKEN": "sv=1&sig=canary&comp=list&restype=container"},
        {"AZURE_STORAGE_SAS_TOKEN": "sv=1&sig=canary#"},
        {"AZURE_STORAGE_SAS_TOKEN": "sv=1&sig=canary&sig=canary"},
        {"AZURE_STORAGE_CONNECTION_STRING": "SharedAccessSignature=sv=1&sig=canary&comp=list"},
        {"AZURE_CLIENT_SECRET": "canary", "AZURE_TENANT_ID": "not a tenant/"},
        {"AZURE_CLIENT_SECRET": "canary", "AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_ID": "id"},
    ],
)
def test_credentials_that_do_not_open_it_are_denied_without_their_words(
    source: AzureSource, container: str, variables: dict[str, str]
) -> None:
    with pytest.raises(SourceDenied) as caught:
        resolve(source, uri(container), Credentials(variables))
    assert not any(secret in caught.value.message for secret in ("canary", OTHER_KEY, "no key!", KEY))


@pytest.mark.parametrize("more", ["&comp=list&restype=container", "&versionid=x", "#"])
def test_a_token_asks_for_nothing_beside_itself(
    azure: AzureStub, source: AzureSource, container: str, more: str
) -> None:
    azure.requests.clear()
    with pytest.raises(SourceDenied):
        resolve(source, uri(container), Credentials({"AZURE_STORAGE_SAS_TOKEN": azure.sas + more}))
    assert azure.requests == []


def test_a_redirect_is_not_followed() -> None:
    with Files() as elsewhere, Files() as sending:
        container, path = f"/{ACCOUNT}/c", "/m/w.bin"
        sending.redirects = {
            container: f"{elsewhere.endpoint}/stolen",
            container + path: f"{elsewhere.endpoint}/stolen",
        }
        source = AzureSource(Config(azure_endpoint=sending.endpoint), "abfss")
        with pytest.raises(CachedError):
            resolve(source, uri("c"), with_key())
        source.close()
        assert sending.requests and elsewhere.requests == []


def test_what_holds_no_credential_is_never_replaced_by_the_daemons_own(
    azure: AzureStub, source: AzureSource, container: str
) -> None:
    azure.requests.clear()
    with pytest.raises(SourceDenied, match="hold no key"):
        resolve(source, uri(container), Credentials({"AZURE_STORAGE_CONNECTION_STRING": "garbage"}))
    assert azure.requests == []


def test_a_container_that_is_not_there_looks_like_one_that_may_not_be_read(source: AzureSource) -> None:
    with pytest.raises(SourceDenied, match="does not exist, or you may not read it"):
        resolve(source, uri("nothing"), with_key())


def test_a_prefix_that_is_not_there_is_not_found(source: AzureSource, container: str) -> None:
    with pytest.raises(ModelNotFound, match="nowhere"):
        resolve(source, f"{uri(container)}/nowhere", with_key())


def test_what_stands_for_a_folder_is_no_file(azure: AzureStub, source: AzureSource, container: str) -> None:
    azure.put(container, "m/folder", b"", metadata={"hdi_isfolder": "true"})
    azure.put(container, "m/marker/", b"")
    azure.put(container, "m/empty.txt", b"")
    assert {entry.path for entry in resolve(source, uri(container), with_key()).entries} == {"w.bin", "empty.txt"}


def test_overwrite_is_refused_on_the_very_next_range(azure: AzureStub, source: AzureSource, container: str) -> None:
    listing = resolve(source, uri(container), with_key())
    reader = source.open(listing, listing.entries[0], with_key())
    assert reader.read(0, 100_000) == OLD[:100_000]
    azure.put(container, "m/w.bin", NEW)
    with pytest.raises(SourceChanged):
        reader.read(100_000, 100_000)
    with pytest.raises(SourceChanged):
        reader.recheck(resumed=True)


def test_without_adlfs_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "cached.sources.azure.source", raising=False)
    monkeypatch.setitem(sys.modules, "adlfs", None)
    registry = Registry(Config(protocols=("abfss",)))
    with pytest.raises(InvalidRequest, match="pip install adlfs"):
        registry.source_for(ModelRef.parse(uri("container")))
