"""Which addresses a sidecar never reaches, whatever a granted name resolves to."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coredeno.denied_addresses import denied_addresses
from coredeno.errors import InvalidArgument
from coredeno.net_hosts import NetHost


def denies(net, address):
    """Whether an address is denied to a sidecar with these hosts."""
    found = denied_addresses(net)
    if address.startswith("["):
        return address in found
    networks = [ipaddress.IPv4Network(entry) for entry in found if not entry.startswith("[")]
    return any(ipaddress.IPv4Address(address) in network for network in networks)


_SPECIAL = st.sampled_from(
    [
        *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.0.1.1", "168.63.129.16", "169.254.169.254"),
        *("172.16.0.1", "192.0.0.8", "192.168.1.1", "198.18.0.1", "224.0.0.1", "255.255.255.255"),
    ]
)
_ADDRESSES = _SPECIAL | st.integers(0, 2**32 - 1).map(lambda number: str(ipaddress.IPv4Address(number)))


@given(_ADDRESSES)
def test_what_is_not_public_is_denied(address):
    """Of IPv4 exactly what a policy would not grant unnamed is denied where only public names are granted."""
    assert denies(("example.com", "*.b.example:443"), address) is not NetHost(address).is_public()


@pytest.mark.parametrize("address", ["[::]", "[::1]", "[fd00:ec2::254]", "[fd20:ce::254]"])
def test_single_addresses_of_ipv6(address):
    """Of IPv6 loopback and the metadata services are denied, unless one is granted."""
    assert denies(("example.com",), address)
    assert not denies(("example.com", f"{address}:80"), address)


@given(_SPECIAL, _ADDRESSES)
def test_an_address_that_is_granted_is_not_denied(granted, other):
    """Granting one address opens no other one."""
    net = ("example.com", f"{granted}:8080")
    assert not denies(net, granted)
    assert denies(net, other) is (other != granted and not NetHost(other).is_public())


@pytest.mark.parametrize("name", ["localhost", "localhost:80", "a.localhost", "*.b.localhost"])
def test_localhost_stands_for_loopback(name):
    """`localhost` opens the two addresses that it stands for, and nothing else."""
    assert not denies((name,), "127.0.0.1")
    assert not denies((name,), "[::1]")
    assert denies((name,), "127.0.0.2")
    assert denies((name,), "10.0.0.1")


@pytest.mark.parametrize("name", ["nas.local", "db", "*.corp.internal:443"])
def test_a_local_name_may_lead_to_a_private_address(name):
    """A local name that the app granted may lead to private addresses, not to loopback or a metadata service."""
    for private in ("10.0.0.1", "172.31.255.255", "192.168.0.1", "100.64.0.1"):
        assert not denies((name, "example.com", "localhost"), private)
        assert not denies((name,), private)
    for special in ("127.0.0.1", "169.254.169.254", "0.0.0.0", "[::1]"):
        assert denies((name,), special)


def test_what_is_no_host_is_refused():
    """A text that is no host is no reason to deny less."""
    with pytest.raises(InvalidArgument):
        denied_addresses(("127.1",))
