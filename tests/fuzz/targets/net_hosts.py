"""Hosts of `net` permissions: one spelling, and what the resolver takes for an address is one to us too."""

from __future__ import annotations

import ipaddress
import socket

from coredeno.errors import InvalidArgument
from coredeno.net_hosts import NetHost, NetHostSet, parse_net_host
from tests.fuzz.shape import require, require_equal, value_of

SEEDS = [
    b"example.com\n*.example.com:443\nA.Example.\n*.b.example",
    b"192.0.2.1:80\n127.0.0.1\n0x7f.1\n2130706433\n127.1\n010.0.0.1",
    b"[2001:db8::1]:443\n[::ffff:10.0.0.1]\n[fe80::1]\n[::]\n[64:ff9b::7f00:1]",
    b"localhost\nprinter.local\nxn--bcher-kva.example:8080\n_dmarc.a.example",
]


def target(data: bytes) -> None:
    hosts = []
    for line in data.decode("utf-8", "surrogateescape").split("\n")[:8]:
        host = value_of(lambda line=line: parse_net_host(line), InvalidArgument)
        if host is not None:
            _check(host)
            hosts.append(host)
    for one in hosts:
        for other in hosts:
            _check_two(one, other)


def _check(host: NetHost) -> None:
    require_equal(parse_net_host(str(host)), host, "read again")
    require(host.name.isascii() and not set(host.name) & set(", \n\0/@%"), f"{host.name!r} is one host")
    require(host.covers(host), "a host covers itself")
    public = host.is_public()
    try:
        address = ipaddress.IPv4Address(socket.inet_aton(host.name))
    except OSError:
        return
    require_equal(str(address), host.name, "what the resolver takes for an address is written as one")
    require(not public or address.is_global, f"{address} is not public")


def _check_two(one: NetHost, other: NetHost) -> None:
    require_equal(NetHostSet([one]).covers(other), one.covers(other), f"a set of {one} about {other}")
    both = one.meet(other)
    require_equal(both, other.meet(one), f"{one} and {other} meet the same both ways")
    require(
        both is None or (one.covers(both) and other.covers(both)),
        f"{one} and {other} cover what they meet in",
    )
    require(not one.covers(other) or both == other, f"{one} covers {other}, which they meet in")
