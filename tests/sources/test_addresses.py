"""Where URLs of callers and redirects may not lead, in every spelling, on every lane."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from cached.access import Credentials
from cached.config import Config
from cached.errors import ConfigError, InvalidRequest
from cached.model_ref import ModelRef
from cached.sources.hub.source import HubSource
from cached.sources.transport.blocked_hosts import Addresses
from cached.sources.transport.client import Web
from cached.sources.url import HttpSource
from tests.servers import Files, HubStub

NOBODY = Credentials()

NEVER = (
    "169.254.169.254",
    "169.254.170.2",  # The keys of containers on AWS.
    "0.0.0.0",
    "0.1.2.3",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd20:ce::254",
    "fd00:c1::a9fe:a9fe",
    "fd00:42::42",
    "::ffff:169.254.169.254",
    "::ffff:0:169.254.169.254",
    "::169.254.169.254",
    "64:ff9b::169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe",
    "64:ff9b:1:a9fe:a9:fe00::",  # RFC 6052: a prefix of 48 bits, the address around the bits 64 to 71.
    "64:ff9b:1:1a9:fe:a9fe::",  # Of 56 bits.
    "64:ff9b:1:12:a9:fea9:fe00:0",  # Of 64 bits.
    "2002:a9fe:a9fe::1",
    "2001:0:a9fe:a9fe::1",
    "2001:0:4136:e378:8000:63bf:5601:5601",  # Teredo, whose client's address is inverted.
    "2001:db8::5efe:169.254.169.254",
)
PRIVATE = (
    "127.0.0.1",
    "127.9.9.9",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "198.18.0.1",
    "240.0.0.1",
    "192.0.0.8",
    "::1",
    "fc00::1",
    "fd12:3456::1",
    "fec0::1",
    "::ffff:127.0.0.1",
    "::7f00:1",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::10.0.0.1",
    "2002:0a00:0001::1",
)
PUBLIC = (
    "8.8.8.8",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "64:ff9b:1::8.8.8.8",
    "172.15.0.1",
    "100.128.0.1",
)
SPELLINGS = ("2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "017700000001", "127.0.0.1.", "LOCALHOST")
WIDE = ("１２７.0.0.1", "127。0。0。1", "①②⑦.0.0.1")


@pytest.mark.parametrize("address", NEVER)
def test_metadata_and_link_local_are_refused_whatever_is_allowed(address: str) -> None:
    for addresses in (Addresses(), Addresses(["0.0.0.0/0", "::/0", "169.254.0.0/16"])):
        for endpoint in ("", "http://127.0.0.1/"):
            with pytest.raises(InvalidRequest, match="metadata"):
                addresses.check(address, endpoint)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_for_whom_the_operator_says(address: str) -> None:
    with pytest.raises(InvalidRequest, match="private_networks"):
        Addresses().check(address)
    with pytest.raises(InvalidRequest, match="private_networks"):
        Addresses().check(address, "http://8.8.8.8/")
    Addresses().check(address, "http://127.0.0.1/")  # What leads there is in such a network itself.
    Addresses(["0.0.0.0/0", "::/0"]).check(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_for_everybody(address: str) -> None:
    Addresses().check(address)


def test_a_named_network_is_allowed_and_its_neighbours_are_not() -> None:
    addresses = Addresses(["10.1.0.0/16"])
    for good in ("10.1.2.3", "::ffff:10.1.2.3", "64:ff9b:1::10.1.2.3"):
        addresses.check(good)
    for bad in ("10.2.0.1", "127.0.0.1", "::10.1.2.3"):
        with pytest.raises(InvalidRequest):
            addresses.check(bad)


@pytest.mark.parametrize("host", [*SPELLINGS, *WIDE, "[::1]", "[::ffff:7f00:1]", "[0:0:0:0:0:0:0:1]"])
def test_loopback_is_refused_in_every_spelling(host: str) -> None:
    web = Web(1)
    with Files({"/f.bin": b"secret"}) as files, pytest.raises(InvalidRequest):
        source = HttpSource(Config(), web)
        source.resolve(ModelRef.parse(f"http://{host}:{files.port}/f.bin"), NOBODY, 5)
    assert files.requests == []
    web.close()


@pytest.mark.parametrize("url", ["http://8.8.8.8\\@127.0.0.1/f", "http://a%2eb/f", "http://127.0.0.1%00.a/f"])
def test_hosts_that_parsers_read_differently_are_refused(url: str) -> None:
    web = Web(1)
    with pytest.raises(InvalidRequest):
        HttpSource(Config(), web).resolve(ModelRef.parse(url), NOBODY, 5)
    web.close()


def test_a_redirect_into_the_node_is_refused_and_not_asked() -> None:
    web = Web(1, Addresses(["127.0.0.2/32"]))
    with Files({"/f.bin": b"secret"}) as inner, Files(host="127.0.0.2") as outer:
        outer.redirects["/f.bin"] = f"{inner.endpoint}/f.bin"
        with pytest.raises(InvalidRequest, match="private_networks"):
            HttpSource(Config(), web).resolve(ModelRef.parse(f"{outer.endpoint}/f.bin"), NOBODY, 5)
        assert inner.requests == []
    web.close()


def test_a_name_that_changes_its_address_after_the_look_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: a public address for whoever checks, loopback for whoever connects."""
    told = iter(["8.8.8.8"])
    real = socket.getaddrinfo

    def resolve(host: object, *arguments: object, **options: object) -> object:
        return real(next(told, "127.0.0.1") if host == "rebinding.test" else host, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    web = Web(1)
    with Files({"/f.bin": b"secret"}) as files, pytest.raises(InvalidRequest, match="private_networks"):
        HttpSource(Config(), web).resolve(ModelRef.parse(f"http://rebinding.test:{files.port}/f.bin"), NOBODY, 5)
    web.close()


@pytest.fixture
def hub() -> Iterator[HubStub]:
    with HubStub() as stub:
        yield stub


def test_a_mirror_in_a_private_network_may_redirect_there(hub: HubStub) -> None:
    hub.add_commit("org/llama", {"model.safetensors": b"x" * 1000})
    web = Web(1)
    source = HubSource(Config(hub_endpoint=hub.endpoint), web)
    listing = source.resolve(ModelRef.parse("org/llama"), NOBODY, 5)
    assert source.open(listing, listing.entries[0], NOBODY).read(0, 1000) == b"x" * 1000
    web.close()


def test_a_public_hub_may_not_redirect_into_a_private_network(hub: HubStub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_commit("org/llama", {"model.safetensors": b"x" * 1000})
    web = Web(1)
    source = HubSource(Config(hub_endpoint=hub.endpoint), web)
    listing = source.resolve(ModelRef.parse("org/llama"), NOBODY, 5)
    check = Addresses.check
    # As of a Hub with a public address.
    monkeypatch.setattr(Addresses, "check", lambda self, address, endpoint: check(self, address, "http://8.8.8.8/"))
    reader = source.open(listing, listing.entries[0], NOBODY)
    for read in (lambda: reader.read(0, 10), lambda: reader.stream(0, 10, lambda _: None)):
        with pytest.raises(InvalidRequest, match="private_networks"):
            read()
    web.close()


@pytest.mark.parametrize("odd", ["10.0.0.1/8", "localhost", "10.0.0.0/33", ""])
def test_what_is_no_network_is_a_wrong_setting(odd: str) -> None:
    with pytest.raises(ConfigError, match="private_networks"):
        Config(private_networks=(odd,))


def test_a_proxy_is_no_way_into_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy may be in a private network, and know names that this node does not; addresses are checked here."""
    real = socket.getaddrinfo

    def resolve(host: object, *arguments: object, **options: object) -> object:
        if host == "known-to-the-proxy.test":
            raise socket.gaierror
        return real(host, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with Files({"http://known-to-the-proxy.test/f.bin": b"public"}) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.endpoint)
        web = Web(1)
        source = HttpSource(Config(), web)
        assert source.resolve(ModelRef.parse("http://known-to-the-proxy.test/f.bin"), NOBODY, 5).size == 6
        proxy.requests.clear()
        for host in ("10.0.0.1", "169.254.169.254", "0xa9fea9fe", "0251.0376.0251.0376", "[::ffff:a00:1]", "localhost"):
            with pytest.raises(InvalidRequest):
                source.resolve(ModelRef.parse(f"http://{host}/f.bin"), NOBODY, 5)
        assert proxy.requests == []
        source.close()
        web.close()
