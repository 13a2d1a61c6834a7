"""Hosts that no URI and no redirect may lead to: link-local addresses and the metadata services of clouds.

Who can read a metadata service has the node's own credentials, so a caller must not be able to point the daemon there.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from cached.errors import InvalidRequest

_NAMES = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
)
_NETWORKS = tuple(
    ipaddress.ip_network(text)
    for text in (
        "169.254.0.0/16",  # Link-local; AWS, GCP, Azure and others answer metadata at 169.254.169.254.
        "fe80::/10",
        "fd00:ec2::254/128",  # AWS metadata over IPv6.
        "100.100.100.200/32",  # Alibaba.
        "168.63.129.16/32",  # Azure's wire server.
        "192.0.0.192/32",  # Oracle.
        "0.0.0.0/8",
        "::/128",
        "224.0.0.0/4",
        "ff00::/8",
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def check_address(address: str) -> None:
    """InvalidRequest if a numeric address is one that the daemon must not talk to."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        ip = inner or ip
    if any(ip.version == network.version and ip in network for network in _NETWORKS):
        raise InvalidRequest(
            f"The address {address} is link-local or a metadata service; models are not read from there."
        )


def check_url(url: str) -> None:
    """InvalidRequest unless `url` is http(s) to a host that may be asked; names are looked up.

    A name that does not resolve here passes: the connection fails by itself, or a proxy knows the name. What the
    connection then reaches is checked again, because a name can change its address in between.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidRequest("A source led to an address that is not http(s); nothing was fetched from there.")
    host = parts.hostname.rstrip(".").lower()
    if host in _NAMES:
        raise InvalidRequest(f"The host {host} is a metadata service; models are not read from there.")
    try:
        found = socket.getaddrinfo(host, parts.port or 443, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, ValueError):
        return
    for _family, _type, _protocol, _name, address in found:
        check_address(str(address[0]))
