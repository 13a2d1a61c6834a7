"""Addresses that no caller's URI and no redirect may lead to: the node, the networks around it, and clouds' metadata.

A caller that can read a metadata service has the node's own credentials; a caller that can read a service on loopback
or in a private network through the daemon gets past whatever keeps callers from it. So addresses are of three kinds:

1. Public addresses may be contacted.
2. Private addresses (loopback, RFC 1918, unique local, carriers', reserved …) may be contacted where the setting
   `private_networks` names them. A redirect of the operator's own endpoint may lead to a private address as well if
   that endpoint is private: mirrors on the premises redirect to the storage beside them.
3. Link-local addresses, metadata services, and addresses that are no single host's are never contacted, whatever a
   setting says.

An IPv6 address that carries an IPv4 address counts as both. The name is checked before, and the address that the
connection really has, after: a name can resolve differently from one moment to the next. Not recognised are the node's
own public addresses, and NAT64 prefixes that a network has chosen for itself.
"""

from __future__ import annotations

import enum
import functools
import ipaddress
import re
import socket
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from cached.errors import InvalidRequest

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAMES = frozenset(
    {
        "metadata",
        "metadata.google.internal",
        "metadata.goog",
        "metadata.tencentyun.com",
        "instance-data",
        "instance-data.ec2.internal",
    }
)
_NEVER: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "169.254.0.0/16",  # Link-local; AWS, GCP, Azure and others answer metadata at 169.254.169.254.
        "fe80::/10",
        "fd00:ec2::/32",  # AWS: metadata, and the keys of containers.
        "fd20:ce::254/128",  # Google.
        "fd00:c1::a9fe:a9fe/128",  # Oracle.
        "fd00:42::42/128",  # Scaleway.
        "100.100.100.200/32",  # Alibaba.
        "168.63.129.16/32",  # Azure's wire server.
        "192.0.0.192/32",  # Oracle.
        "0.0.0.0/8",
        "255.255.255.255/32",
        "::/128",
        "224.0.0.0/4",
        "ff00::/8",
    )
)
# In addition to those of the standard library, whose list depends on its version.
_PRIVATE: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "100.64.0.0/10",
        "192.0.0.0/24",
        "198.18.0.0/15",
        "240.0.0.0/4",
        "::/96",
        "::ffff:0:0:0/96",
        "fc00::/7",
        "fec0::/10",
        "2002::/16",
    )
)
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?\Z")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.IPv6Network("64:ff9b:1::/48")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_TRANSLATED = ipaddress.IPv6Network("::ffff:0:0:0/96")


class Kind(enum.Enum):
    PUBLIC = "public"  # Anybody's.
    PRIVATE = "private"  # Of this node or a network around it.
    NEVER = "never"  # Link-local, a metadata service, or no single host's.


class Addresses:
    """Decide which addresses may be contacted from this node. Safe to use from several threads."""

    def __init__(self, private_networks: Iterable[str] = ()) -> None:
        self._named: tuple[Network, ...] = tuple(map(ipaddress.ip_network, private_networks))
        self._private: dict[str, bool] = {}

    def check(self, address: str, endpoint: str = "") -> None:
        """Raise InvalidRequest if a numeric address is forbidden. `endpoint` is the operator's URL that led there."""
        found = self.kind(address)
        if found is Kind.NEVER:
            raise InvalidRequest(
                "The address of a source is link-local or a metadata service; models are not read from there."
            )
        if found is Kind.PRIVATE and not (endpoint and self._is_private(endpoint)):
            raise InvalidRequest(
                "The address of a source is in a private network, from which models are not read unless the operator "
                "names it in the setting 'private_networks'."
            )

    def check_url(self, url: str, endpoint: str = "") -> None:
        """Raise InvalidRequest unless `url` is http(s) to a host that may be contacted; names are resolved.

        A name that does not resolve here passes: the connection fails by itself, or a proxy knows the name.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidRequest("A source led to an address that is not http(s); nothing was fetched from there.")
        host = parts.hostname.rstrip(".").lower()
        if host in _NAMES:
            raise InvalidRequest("The host of a source is a metadata service; models are not read from there.")
        if ":" not in host and not _HOST.match(host):  # Proxies may read it differently.
            raise InvalidRequest("The host of a source is malformed; check the URL.")
        for address in _resolved(host):
            self.check(address, endpoint)

    def _is_private(self, endpoint: str) -> bool:
        """Return True if all addresses of the endpoint's host are private."""
        host = urlsplit(endpoint).hostname or ""
        if host not in self._private:
            kinds = {_kind(address) for address in _resolved(host)}
            if not kinds:
                return False  # It may resolve later.
            self._private[host] = kinds == {Kind.PRIVATE}
        return self._private[host]

    def kind(self, address: str) -> Kind:
        """Return the kind of a numeric address, with `private_networks` counted as public."""
        found = _kind(address)
        if found is Kind.PRIVATE and all(map(self._is_named, _meant(address))):
            return Kind.PUBLIC
        return found

    def _is_named(self, ip: Address) -> bool:
        return _kind_of(ip) is Kind.PUBLIC or any(ip in network for network in self._named)


def _resolved(host: str) -> list[str]:
    """Return the addresses of a host, in every spelling that the system knows: 2852039166 and 0251.0376.0251.0376 are
    addresses too. Empty if it does not resolve."""
    try:
        found = socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, ValueError):
        return []
    return [str(address[0]) for _family, _type, _protocol, _name, address in found]


@functools.lru_cache(maxsize=256)
def _kind(address: str) -> Kind:
    kinds = {_kind_of(ip) for ip in _meant(address)}
    return next(kind for kind in (Kind.NEVER, Kind.PRIVATE, Kind.PUBLIC) if kind in kinds)


def _kind_of(ip: Address) -> Kind:
    if any(ip in network for network in _NEVER):
        return Kind.NEVER
    private = not ip.is_global or any(ip in network for network in _PRIVATE)
    return Kind.PRIVATE if private else Kind.PUBLIC


def _meant(address: str) -> list[Address]:
    """Return the address, and the IPv4 addresses that it may lead to."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return [ip]
    if ip.ipv4_mapped:
        return [ip.ipv4_mapped]
    if ip in _NAT64 or ip in _NAT64_LOCAL:
        return list(_carried(ip))  # The address behind it decides.
    return [ip, *_carried(ip)]


def _carried(ip: ipaddress.IPv6Address) -> Iterator[Address]:
    number = int(ip)
    if ip.sixtofour:
        yield ip.sixtofour
    if ip.teredo:
        yield from ip.teredo
    isatap = number >> 32 & 0xFDFFFFFF == 0x5EFE  # RFC 5214, section 6.1.
    if ip in _NAT64 or ip in _NAT64_LOCAL or isatap or ip in _TRANSLATED or (ip in _COMPATIBLE and number > 1):
        yield ipaddress.IPv4Address(number & 0xFFFFFFFF)
    if ip in _NAT64_LOCAL:  # RFC 6052, section 2.2: longer prefixes in it, and the bits 64 to 71 are skipped.
        packed = ip.packed[6:8] + ip.packed[9:]
        # A leading zero is more likely the end of the prefix.
        yield from (ipaddress.IPv4Address(packed[at : at + 4]) for at in range(3) if packed[at])
