"""Permits, how long a grant lasts, and the records of those that are kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coredeno.errors import UsageError
from coredeno.grant import (
    Grant,
    Permit,
    ceiling_of,
    grants_of,
    is_touched,
    permits_in,
    permits_of,
    refusals_of,
)
from coredeno.grant_records import is_of, parse, record_key, stored
from coredeno.manifest import parse_manifest
from coredeno.permissions import Grants
from coredeno.policy import Policy

ALL = Grants(
    read=("a",),
    write=("b",),
    net=("example.com",),
    run=("tool",),
    store_read=("g",),
    store_write=("h",),
    services={"weather": frozenset({"read", "write"}), "news": frozenset()},
)


def test_permits_are_the_entries_of_grants():
    """Taken apart and put together again grants are as before."""
    permits = permits_in(ALL)
    assert permits == (
        Permit("files.read", "a"),
        Permit("files.write", "b"),
        Permit("net", "example.com"),
        Permit("processes.start", "tool"),
        Permit("store.read", "g"),
        Permit("store.write", "h"),
        Permit("services.weather", "weather:read"),
        Permit("services.weather", "weather:write"),
        Permit("services.news", "news"),
    )
    assert grants_of(permits) == ALL
    assert grants_of(()) == Grants()


def test_permits_of_a_manifest():
    """What a manifest lists as optional is read by the same rules, services included."""
    text = b"code: a\npermissions: {optional: {read: [./p/], services: {news: [], weather: [read]}}}"
    optional = parse_manifest(text, file="view.yml").permissions.optional
    assert permits_of(optional, optional.services) == (
        Permit("files.read", "p"),
        Permit("services.news", "news"),
        Permit("services.weather", "weather:read"),
    )


@given(st.sampled_from(permits_in(ALL)))
def test_a_ceiling_of_grants_allows_them(permit):
    """What a module has is covered by what it has, and by nothing less."""
    assert refusals_of(ceiling_of(ALL), "m", [permit]) == {}
    assert list(refusals_of(ceiling_of(Grants()), "m", [permit])) == [permit]
    assert refusals_of(Policy(), "m", [permit]) == {}


def test_a_host_that_is_called_public_covers_itself_only():
    """A granted host of that name is not taken for all public hosts."""
    assert refusals_of(ceiling_of(Grants(net=("public", "public:80"))), "m", [Permit("net", "example.com")])


@pytest.mark.parametrize(
    ("permit", "resource", "is_taken"),
    [
        (("files.read", "photos"), None, True),
        (("files.read", "photos"), "photos", True),
        (("files.read", "photos"), "photos/private", True),
        (("files.read", "photos/private"), "photos", True),
        (("files.read", "photos"), "photos-2", False),
        (("files.read", "."), "photos", True),
        (("net", "*.example.com"), "a.example.com:443", True),
        (("net", "a.example.com:443"), "*.example.com", True),
        (("net", "a.example.com:443"), "a.example.com:80", False),
        (("services.weather", "weather:read"), "weather", True),
        (("services.weather", "weather:read"), "weather:write", False),
        (("processes.start", "tool"), "tools", False),
        (("store.read", "g"), "g", True),
    ],
)
def test_what_is_taken_back(permit, resource, is_taken):
    """An entry is taken back whole if it reaches the resource, or is a part of it."""
    permission, entry = permit
    assert is_touched(Permit(permission, entry), permission, resource) is is_taken
    assert not is_touched(Permit(permission, entry), "other", resource)


@pytest.mark.parametrize("seconds", [0, -1, True, "60", None, float("inf"), float("nan")])
def test_a_time_that_is_none(seconds):
    """A grant for a time is for a number of seconds more than 0."""
    with pytest.raises(UsageError, match="more than 0"):
        Grant.for_s(seconds)


def test_what_ends_a_grant():
    """Each kind says what ends it."""
    kinds = [Grant.once(), Grant.for_s(1.5), Grant.until_unloaded(), Grant.until_revoked()]
    assert [kind.until for kind in kinds] == ["used", "1.5 s", "unloaded", "revoked"]


def test_a_record_comes_back():
    """What is kept comes back as it was, each permit once."""
    permits = permits_in(ALL)
    assert parse(stored([*permits, *permits])) == permits
    assert stored(()) is None
    assert parse(None) == ()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format":2,"permits":[]}', "\ud800", "[" * 9999])
def test_a_record_that_cannot_be_read(text):
    """What cannot be read grants nothing, and says so."""
    assert parse(text) is None


def test_a_record_is_of_one_signer():
    """Another signer's plugin of the same code has another record."""
    assert record_key("a", None) != record_key("a", "f" * 64)
    assert is_of("a", record_key("a", "f" * 64))
    assert not is_of("a", record_key("a.b", None))
