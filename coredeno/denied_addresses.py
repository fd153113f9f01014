"""Which addresses a sidecar never reaches, whatever a granted name resolves to. Pure: no I/O.

Deno compares the name that a plugin asks for with what is granted, and then the address that the name resolved to
with what is *denied* (measured with 2.9.8: `fetch` and each of its redirects, `Deno.connect`, `WebSocket`, `node:net`,
`node:http`, and listening). So what no plugin was granted by its address is denied by its address: a public name
whose owner lets it lead to 127.0.0.1 or to a cloud's metadata service leads nowhere.

Deno takes networks of IPv4 there (an IPv4 address written as IPv6 falls under them), but of IPv6 single addresses only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from coredeno.net_hosts import NetHost, parse_net_host

_Network = ipaddress.IPv4Network

# Where names lead that belong to a local network; RFC 1918, and RFC 6598, which overlay networks use too.
_PRIVATE: Final = ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16")
# All others that `NetHost.is_public` holds to be special: this host, loopback, link-local (with the metadata services
# of clouds), protocol assignments, documentation, benchmarks, multicast, reserved.
_SPECIAL: Final = (
    "0.0.0.0/8",
    "100.100.100.200/32",  # the metadata service of Alibaba, in a network that is private otherwise
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
_IPV6: Final = (
    "[::]",
    "[::1]",
    "[fd00:ec2::254]",  # the metadata service of AWS
    "[fd20:ce::254]",  # that of Google
)
_LOOPBACK: Final = frozenset({"127.0.0.1", "[::1]"})


def denied_addresses(net: Iterable[str]) -> tuple[str, ...]:
    """What is denied to a sidecar whose modules may reach the hosts `net`: networks and addresses, as Deno reads them.

    An address that is granted itself is not denied; `localhost` and names beneath it stand for 127.0.0.1 and `[::1]`.
    Any other name that is not public (`nas.local`, `db`) may lead to a private address, and to no other special one.
    That an address is not denied grants it to nobody, but it is denied to no name then, on no port.

    Raises:
        InvalidArgument: an entry is no host.
    """
    hosts = {parse_net_host(text).name for text in net}
    local = {name for name in hosts if not _is_address(name) and not NetHost(name).is_public()}
    loopback = {name for name in local if name == "localhost" or name.endswith(".localhost")}
    opened = hosts | _LOOPBACK if loopback else hosts
    networks = [_Network(text) for text in (_SPECIAL if local - loopback else _PRIVATE + _SPECIAL)]
    for name in sorted(opened):
        if _is_address(name) and not name.startswith("["):
            networks = [piece for network in networks for piece in _without(network, _Network(name))]
    return (*map(str, sorted(networks)), *(address for address in _IPV6 if address not in opened))


def _is_address(name: str) -> bool:
    # No name ends in a label of digits only: `parse_net_host` refuses it.
    return name.startswith("[") or name.rpartition(".")[2].isdecimal()


def _without(network: _Network, address: _Network) -> Iterable[_Network]:
    return network.address_exclude(address) if address.subnet_of(network) else (network,)
