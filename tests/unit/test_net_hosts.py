"""Hosts of `net` permissions: one spelling each, what covers what, and which are public."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coredeno.errors import InvalidArgument
from coredeno.net_hosts import NetHost, NetHostSet, parse_net_host


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("api.example.com", "api.example.com"),
        ("API.Example.COM:0443", "api.example.com:443"),
        ("example.com.", "example.com"),
        ("localhost", "localhost"),
        ("a_b.example", "a_b.example"),
        ("xn--bcher-kva.example:1", "xn--bcher-kva.example:1"),
        ("*.Example.com:443", "*.example.com:443"),
        ("192.0.2.1:65535", "192.0.2.1:65535"),
        ("192.0.2.1.", "192.0.2.1"),
        ("[2001:DB8:0:0::1]:80", "[2001:db8::1]:80"),
        ("[::1]", "[::1]"),
        ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
        ("[::ffff:7f00:1]", "127.0.0.1"),
    ],
)
def test_one_spelling(text, spelling):
    """Each host has one spelling, and reading that spelling gives it again."""
    assert str(parse_net_host(text)) == spelling
    assert str(parse_net_host(spelling)) == spelling


@pytest.mark.parametrize(
    "text",
    [
        *[
            "",
            ".",
            "*",
            "*.",
            "*.com",
            "a.*.com",
            "**.a.b",
            "a..b",
            ".a",
            "-a.b",
            "a-.b",
            "a b",
            "a,b",
            "a\n",
            "\x00",
        ],
        *[
            "a:",
            "a:0",
            "a:65536",
            "a:-1",
            "a:99999999",
            "a:b",
            "a:1:2",
            "a:\uff11",
            "bücher.example",
            "\uff11\uff12\uff17.0.0.1",
        ],
        *[
            "http://a.b",
            "a.b/c",
            "user@a.b",
            "10.0.0.0/8",
            "unix:/tmp/s",
            "vsock:1:2",
            "a\\b",
            "a%2e.b",
            "a?b",
        ],
        *[
            "::1",
            "[::1",
            "::1]",
            "[]",
            "[::g]",
            "[fe80::1%eth0]",
            "[1.2.3.4]",
            "[::1]x",
            "[::1]:",
            "[::1]:0",
            "[a.b]",
        ],
        *[
            "127.1",
            "2130706433",
            "0x7f.1",
            "0x7f000001",
            "0177.0.0.1",
            "127.0.0.01",
            "127.0.0.0x1",
            "256.1.1.1",
        ],
        *["1.2.3.4.5", "0", "a.1", "a.0x", "*.1.2.3.4", "1.2.3.4..", "0X7F.1", "*.0.0.1"],
        *["a" * 64 + ".b", ".".join(["abcdefg"] * 32), "a" * 5000],
    ],
)
def test_what_is_no_host(text):
    """Whatever Deno, its lists or a resolver could take for something else is refused."""
    with pytest.raises(InvalidArgument, match="wanted"):
        parse_net_host(text)


@pytest.mark.parametrize(
    "text",
    [
        *[
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "*.a.localhost",
            "localhost.localdomain",
            "printer.local",
        ],
        *[
            "metadata.google.internal",
            "db",
            "redis:6379",
            "nas.lan",
            "a.home.arpa",
            "x.corp",
            "x.home",
            "x.intranet",
        ],
        *[
            "0.0.0.0",
            "127.0.0.1",
            "127.255.1.1",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.0.1",
            "192.168.1.1",
            "169.254.169.254",
        ],
        *[
            "100.64.0.1",
            "100.100.100.200",
            "192.0.0.8",
            "192.0.0.9",
            "192.0.2.1",
            "192.88.99.1",
            "198.18.0.1",
        ],
        *[
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
        ],
        *[
            "[::]",
            "[::1]",
            "[fe80::1]",
            "[fec0::1]",
            "[fc00::1]",
            "[fd00:ec2::254]",
            "[ff02::1]",
            "[2001:db8::1]",
        ],
        *[
            "[::ffff:127.0.0.1]",
            "[::ffff:10.0.0.1]",
            "[::127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "[64:ff9b:1::1]",
            "[100::1]",
        ],
        *["[2002:7f00:1::]", "[2001:0:7f00:1::]", "[3fff::1]", "[5f00::1]", "[4000::1]"],
    ],
)
def test_what_is_not_public(text):
    """Addresses of this machine and of private networks are not public, nor names that stand for them."""
    assert not parse_net_host(text).is_public()
    assert not parse_net_host(str(parse_net_host(text))).is_public()


@pytest.mark.parametrize(
    "text",
    [
        *[
            "example.com",
            "api.example.com:443",
            "*.example.com",
            "local.example",
            "localhost.example.com",
            "home.org",
        ],
        *[
            "8.8.8.8",
            "1.1.1.1:53",
            "172.32.0.1",
            "100.128.0.1",
            "[2606:4700::1111]",
            "[2a00:1450::1]:443",
            "arpa.com",
        ],
        "[::ffff:8.8.8.8]",
    ],
)
def test_what_is_public(text):
    """All other names and addresses are public."""
    assert parse_net_host(text).is_public()


@pytest.mark.parametrize(
    ("ceiling", "host", "covered"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.b:1", True),
        ("a.b:1", "a.b:1", True),
        ("a.b:1", "a.b:2", False),
        ("a.b:1", "a.b", False),
        ("a.b", "c.a.b", False),
        ("a.b", "*.a.b", False),
        ("*.a.b", "a.b", True),
        ("*.a.b", "c.a.b:9", True),
        ("*.a.b", "d.c.a.b", True),
        ("*.a.b", "*.c.a.b", True),
        ("*.a.b", "*.a.b", True),
        ("*.a.b", "xa.b", False),
        ("*.c.a.b", "*.a.b", False),
        ("*.a.b:1", "c.a.b", False),
        ("127.0.0.1", "[::ffff:127.0.0.1]:80", True),
    ],
)
def test_covers(ceiling, host, covered):
    """A host covers itself, a wildcard all beneath it, and no port covers every port."""
    assert parse_net_host(ceiling).covers(parse_net_host(host)) is covered


_HOSTS = st.builds(
    NetHost,
    st.sampled_from(["a.b", "c.a.b", "d.c.a.b", "*.a.b", "*.c.a.b", "xa.b", "127.0.0.1", "[::1]"]),
    st.sampled_from([None, 1, 2]),
)


@given(_HOSTS, _HOSTS, _HOSTS)
def test_meet_covers_what_both_cover(one, other, host):
    """What two hosts have in common covers exactly what both cover."""
    met = one.meet(other)
    assert (met is not None and met.covers(host)) == (one.covers(host) and other.covers(host))


@given(st.text(max_size=30) | st.from_regex(r"[0-9a-fx.:\[\]*]{0,30}", fullmatch=True))
def test_any_text_is_a_host_or_the_declared_error(text):
    """Whatever the text, it is a host whose spelling is fixed and plain, or `InvalidArgument`."""
    try:
        host = parse_net_host(text)
    except InvalidArgument:
        return
    assert parse_net_host(str(host)) == host
    assert not set(str(host)) - set("abcdefghijklmnopqrstuvwxyz0123456789-_.:[]*")


_SOME_HOSTS = st.sampled_from(
    [
        "*.a.example",
        "*.b.a.example",
        "a.example",
        "b.a.example",
        "xa.example",
        "*.xa.example",
        "10.0.0.1",
        "[::1]",
    ]
).flatmap(lambda name: st.sampled_from([name, f"{name}:1", f"{name}:2"]).map(parse_net_host))


@given(st.lists(_SOME_HOSTS, max_size=4), _SOME_HOSTS)
def test_a_set_covers_what_one_of_it_covers(hosts: list[NetHost], host: NetHost):
    """Looked up, and not compared with each."""
    assert NetHostSet(hosts).covers(host) == any(one.covers(host) for one in hosts)
