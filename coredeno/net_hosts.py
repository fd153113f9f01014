"""The hosts of `net` permissions: one spelling for each, and which of them are public. Pure: no I/O.

Deno compares names as text and leaves numbers to the resolver, for which `2130706433`, `0x7f.1` and `127.1`
are all 127.0.0.1 (Deno 2.9.8 connects). So there is one spelling of each address, and the others are refused.
What a public *name* resolves to is not known here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from coredeno.errors import InvalidArgument

_IPV6: Final = re.compile(r"\[([0-9a-fA-F:.]{2,45})\](?::([0-9]{1,5}))?")
_NAME: Final = re.compile(r"([^:\[\]]{1,254})(?::([0-9]{1,5}))?")
# Deno also takes `_` in names. Other alphabets are written in punycode (`xn--…`), as Deno wants them.
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
# https://url.spec.whatwg.org/#ends-in-a-number-checker: such a name is an address to every resolver.
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_HIGHEST_PORT: Final = 65535
_LONGEST_NAME: Final = 253  # RFC 1035 section 2.3.4, without the trailing dot

# Names that are never looked up in the public DNS: RFC 6761 (localhost), RFC 6762 with its appendix G,
# RFC 8375 (home.arpa), and `internal`, which ICANN reserved for private use in 2024.
_LOCAL_NAMES: Final = frozenset(
    {
        "localhost",
        "localdomain",
        "local",
        "internal",
        "intranet",
        "private",
        "corp",
        "home",
        "lan",
        "home.arpa",
    }
)
_PUBLIC_IPV6: Final = ipaddress.IPv6Network("2000::/3")  # RFC 4291: all else is special
# Not public, although `ipaddress` of some Python versions holds them to be global.
_NOT_PUBLIC: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # Azure's metadata service, reachable only from within
        "192.0.0.0/24",  # RFC 6890: protocol assignments
        "192.88.99.0/24",  # RFC 7526: 6to4 relays
        "2001::/23",  # RFC 2928: protocol assignments, Teredo (which wraps IPv4) among them
        "2002::/16",  # RFC 3056: 6to4, which wraps any IPv4 address
        "3fff::/20",  # RFC 9637: documentation
    )
)


class NetHost(msgspec.Struct, frozen=True):
    """A host of a `net` permission, in its one spelling; `str()` gives the text that Deno takes.

    Attributes:
        name: a host name in lower case, `*.` and a name, an IPv4 address, or an IPv6 address in brackets.
        port: 1 to 65,535, or None for all ports.
    """

    name: str
    port: int | None = None

    def __str__(self) -> str:
        return self.name if self.port is None else f"{self.name}:{self.port}"

    def covers(self, other: NetHost) -> bool:
        """Whether a grant of this host grants `other`. `*.a.example` covers `a.example` too, as in Deno."""
        return self.port in (None, other.port) and self._covers_name(other.name)

    def meet(self, other: NetHost) -> NetHost | None:
        """What both cover, or None if that is nothing."""
        if None not in (self.port, other.port) and self.port != other.port:
            return None
        port = other.port if self.port is None else self.port
        if self._covers_name(other.name):
            return NetHost(other.name, port)
        return NetHost(self.name, port) if other._covers_name(self.name) else None

    def _covers_name(self, name: str) -> bool:
        if not self.name.startswith("*."):
            return self.name == name
        return name.removeprefix("*.") == self.name[2:] or name.endswith(self.name[1:])

    def is_public(self) -> bool:
        """Whether it is no address of this machine or a private network, and no name that stands for one.

        A name of one label, such as `db`, is looked up in the local network, so it is not public.
        """
        address = _address(self.name)
        if address is None:
            labels = self.name.split(".")
            return len(labels) > 1 and not {labels[-1], ".".join(labels[-2:])} & _LOCAL_NAMES
        if isinstance(address, ipaddress.IPv6Address) and address not in _PUBLIC_IPV6:
            return False
        special = (
            address.is_multicast or address.is_reserved or any(address in network for network in _NOT_PUBLIC)
        )
        return address.is_global and not special


class NetHostSet:
    """Hosts that are granted: says whether one of them `covers` a host, in a time that does not depend on how many."""

    def __init__(self, hosts: Iterable[NetHost]) -> None:
        # By name, which ports; of a wildcard by what follows its star and dot.
        self._exact: dict[str, dict[int | None, NetHost]] = {}
        self._beneath: dict[str, dict[int | None, NetHost]] = {}
        for host in hosts:
            bare = host.name.removeprefix("*.")
            by_name = self._exact if bare == host.name else self._beneath
            by_name.setdefault(bare, {})[host.port] = host

    def covers(self, host: NetHost) -> bool:
        """Whether one of them covers `host`."""
        return self.find(host) is not None

    def find(self, host: NetHost) -> NetHost | None:
        """One that covers `host`, or None."""
        bare = host.name.removeprefix("*.")
        if bare == host.name and (found := _of_port(self._exact.get(bare), host.port)):
            return found
        while bare:
            if found := _of_port(self._beneath.get(bare), host.port):
                return found
            bare = bare.partition(".")[2]
        return None


def _of_port(hosts: Mapping[int | None, NetHost] | None, port: int | None) -> NetHost | None:
    if hosts is None:
        return None
    return hosts.get(port) or hosts.get(None)


def parse_net_host(text: str) -> NetHost:
    """Read `host` or `host:port`.

    A host is a name, `*.` and a name of at least two labels, an IPv4 address of four decimal numbers, or an
    IPv6 address in brackets. Capitals, one trailing dot, and longer ways to write an IPv6 address are brought
    to one spelling; an IPv4 address that is written as IPv6 becomes IPv4, which is how Deno sees it.

    Raises:
        InvalidArgument: it is anything else.
    """
    if match := _IPV6.fullmatch(text):
        return NetHost(_ipv6(match[1], text), _port(match[2], text))
    match = _NAME.fullmatch(text)
    if match is None:
        raise _invalid(text, "wanted host or host:port (an IPv6 address in brackets)")
    name = match[1].lower().removesuffix(".")
    labels = name.removeprefix("*.").split(".")
    if len(name) > _LONGEST_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise _invalid(
            text, "wanted a host name of letters, digits and '-' (other alphabets as xn--…), or an address"
        )
    if name.startswith("*.") and len(labels) == 1:
        raise _invalid(text, "wanted at least two names after '*.'")
    if _NUMBER.fullmatch(labels[-1]) and not isinstance(_address(name), ipaddress.IPv4Address):
        raise _invalid(text, "wanted an address of four decimal numbers, such as 192.0.2.1")
    return NetHost(name, _port(match[2], text))


def _ipv6(inside: str, text: str) -> str:
    try:
        address = ipaddress.IPv6Address(inside)
    except ValueError:
        raise _invalid(text, "wanted an IPv6 address in the brackets") from None
    return str(address.ipv4_mapped) if address.ipv4_mapped else f"[{address.compressed}]"


def _port(digits: str | None, text: str) -> int | None:
    if digits is None:
        return None
    port = int(digits)
    if not 1 <= port <= _HIGHEST_PORT:
        raise _invalid(text, "wanted a port from 1 to 65535")
    return port


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None


def _invalid(text: str, wanted: str) -> InvalidArgument:
    return InvalidArgument(f"host {text[:100]!r}: {wanted}")
