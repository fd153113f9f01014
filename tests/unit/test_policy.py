"""What the app grants at most, and what a module gets of it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coredeno.errors import PermissionDenied, UsageError
from coredeno.manifest import Manifest, OptionalPermissions, Permissions, StoreGroups, parse_manifest
from coredeno.permissions import Grants
from coredeno.policy import Policy


def asking(**permissions):
    services = permissions.pop("services", {})
    store = {mode: permissions.pop(f"store_{mode}", ()) for mode in ("read", "write")}
    asked = Permissions(**permissions, store=StoreGroups(**store))
    return Manifest(code="tagger", permissions=asked, services=services)


def grantable(policy, manifest):
    try:
        policy.grants(manifest)
    except PermissionDenied:
        return False
    return True


def refused(policy, manifest):
    with pytest.raises(PermissionDenied) as caught:
        policy.grants(manifest)
    return caught.value


def test_the_default_grants_what_is_asked():
    """The default policy grants what the manifest asks for, and of what is optional nothing."""
    manifest = Manifest(
        code="tagger",
        permissions=Permissions(
            read=("data",),
            write=(".",),
            net=("example.com:443",),
            run=("ffmpeg",),
            store=StoreGroups(read=("news",), write=("mail",)),
            optional=OptionalPermissions(read=("photos",), net=("127.0.0.1",)),
        ),
        services={"weather": ("read",), "news": ()},
    )
    assert Policy().grants(manifest) == Grants(
        read=("data",),
        write=(".",),
        net=("example.com:443",),
        run=("ffmpeg",),
        store_read=("news",),
        store_write=("mail",),
        services={"weather": frozenset({"read"}), "news": frozenset()},
    )
    assert Policy().grants(Manifest(code="a")) == Grants()


@pytest.mark.parametrize(
    "host",
    [
        *["127.0.0.1", "127.0.0.1:8080", "localhost", "localhost.", "a.localhost:1", "x.local", "x.internal"],
        *[
            "db",
            "10.0.0.1",
            "192.168.1.1:80",
            "169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
            "240.0.0.1",
            "[::1]",
        ],
        *["[::]", "[fe80::1]", "[fc00::1]", "[::ffff:127.0.0.1]:80", "[ff02::1]", "*.corp.internal"],
    ],
)
def test_hosts_that_are_not_public_must_be_named_by_the_app(host):
    """Loopback, private and other special hosts are granted only where the app's policy names them."""
    error = refused(Policy(), asking(net=("example.com", host)))
    assert (error.module, error.permission, error.resource) == ("tagger", "net", host)
    assert "only an app that names it" in error.remedy
    assert Policy(net=(host,)).grants(asking(net=(host,))).net == (host,)
    assert not grantable(Policy(net=("example.com",)), asking(net=(host,)))


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "0177.0.0.1", "", "a,b", "*"])
def test_what_is_no_host_is_never_granted(host):
    """A manifest that was not parsed cannot smuggle in another spelling of an address."""
    assert not grantable(Policy(), asking(net=(host,)))
    assert not grantable(Policy(net=("127.0.0.1",)), asking(net=(host,)))


@pytest.mark.parametrize(
    ("ceiling", "asked", "expected"),
    [
        ({"read": ("data",)}, {"read": ("data", "data/x")}, True),
        ({"read": ("data",)}, {"read": ("data-secrets",)}, False),
        ({"read": ("data",)}, {"read": (".",)}, False),
        ({"read": (".",)}, {"read": ("any/thing",)}, True),
        ({"read": ()}, {"read": ("data",)}, False),
        ({"read": ()}, {"write": ("data",)}, True),
        ({"write": ("out",)}, {"write": ("out/x",), "read": ("data",)}, True),
        ({"write": ("out",)}, {"write": ("data",)}, False),
        ({"net": ("*.example.com",)}, {"net": ("a.example.com:443", "example.com")}, True),
        ({"net": ("example.com:443",)}, {"net": ("example.com",)}, False),
        ({"net": ()}, {"net": ("example.com",)}, False),
        ({"net": ("127.0.0.1:8080",)}, {"net": ("127.0.0.1:9090",)}, False),
        ({"run": ("ffmpeg",)}, {"run": ("ffmpeg",)}, True),
        ({"run": ("ffmpeg",)}, {"run": ("sh",)}, False),
        ({"store_read": ("news",)}, {"store_read": ("news",), "store_write": ("mail",)}, True),
        ({"store_read": ("news",)}, {"store_read": ("mail",)}, False),
        ({"store_write": ("news",)}, {"store_write": ("mail",)}, False),
        (
            {"store_read": (), "store_write": ()},
            {"store_read": ("tagger",), "store_write": ("tagger",)},
            True,
        ),
        ({"services": {"weather": None}}, {"services": {"weather": ("read", "write")}}, True),
        ({"services": {"weather": ("read",)}}, {"services": {"weather": ("read",)}}, True),
        ({"services": {"weather": ("read",)}}, {"services": {"weather": ()}}, True),
        ({"services": {"weather": ("read",)}}, {"services": {"weather": ("write",)}}, False),
        ({"services": {}}, {"services": {"weather": ()}}, False),
    ],
)
def test_a_ceiling_grants_what_it_names(ceiling, asked, expected):
    """A field that is set grants what it names and nothing else; the others stay open."""
    assert grantable(Policy(**ceiling), asking(**asked)) is expected


def test_the_first_refusal_is_named_and_the_others_counted():
    """The error is about the first entry beyond the ceiling, always the same one, and counts the rest."""
    policy = Policy(read=("data",), run=(), store_read=(), store_write=(), services={"weather": ("read",)})
    one = refused(policy, asking(read=("data", "secrets")))
    assert (one.permission, one.resource) == ("files.read", "secrets")
    assert "add 'secrets' to Policy.read" in one.remedy
    assert "more" not in one.remedy
    manifest = asking(
        run=("sh",),
        net=("localhost",),
        store_read=("a",),
        store_write=("b",),
        services={"weather": ("read", "write"), "mail": ("send", "read")},
    )
    many = refused(policy, manifest)
    assert (many.permission, many.resource) == ("net", "localhost")
    assert many.remedy.endswith("; 5 more would be refused too")
    assert str(refused(policy, manifest)) == str(many)


@pytest.mark.parametrize(
    ("services", "resource", "entry"),
    [
        ({"mail": ("send",)}, "mail", "'mail'"),
        ({"weather": ("write",)}, "weather:write", "'weather: [write]'"),
    ],
)
def test_a_refused_service_is_named(services, resource, entry):
    """A service beyond the ceiling is named, and a permission there with its service."""
    error = refused(Policy(services={"weather": ("read",)}), asking(services=services))
    assert error.permission == f"services.{resource.partition(':')[0]}"
    assert error.resource == resource
    assert f"add {entry} to Policy.services" in error.remedy


def test_entries_are_brought_to_one_spelling():
    """A policy may spell paths and hosts as people do."""
    policy = Policy(read=["./data/"], net=["Example.COM.:0443"], services={"weather": ["read"]})
    assert (policy.read, policy.net, policy.services) == (
        ("data",),
        ("example.com:443",),
        {"weather": ("read",)},
    )
    assert Policy(read=policy.read, net=policy.net, services=policy.services) == policy


@pytest.mark.parametrize(
    "fields",
    [
        {"read": "data"},
        {"read": ("../x",)},
        {"write": (1,)},
        {"write": {"a"}},
        {"net": ("127.1",)},
        {"net": "localhost"},
        {"run": ("/bin/sh",)},
        {"run": ("",)},
        {"store_read": ("_x",)},
        {"store_write": ("",)},
        {"services": {"weather": "read"}},
        {"services": {"weather": (None,)}},
        {"services": ("weather",)},
        {"services": {1: None}},
    ],
)
def test_a_wrong_policy_is_a_usage_error(fields):
    """What cannot be meant is refused when the policy is made, and the error names the field."""
    with pytest.raises(UsageError, match=f"Policy: {next(iter(fields))}"):
        Policy(**fields)


def app(text):
    return Policy.from_manifest(parse_manifest(text.encode(), file=".core/view.yml"))


def test_the_apps_manifest_is_a_ceiling():
    """`permissions` of the app's manifest is a complete ceiling: what it does not list is not granted."""
    text = "code: app\npermissions: {read: [data], net: ['127.0.0.1:80'], store: {read: [news]}}\n"
    assert app(text) == Policy(
        read=("data",), write=(), net=("127.0.0.1:80",), run=(), store_read=("news",), store_write=()
    )
    assert app("code: app\nservices: {weather: [read]}\n") == Policy(services={"weather": ("read",)})
    assert app("code: app\nservices:\n").services == {}


def test_a_manifest_that_only_names_the_app_is_no_ceiling():
    """A file without permissions and services names the app and limits nothing."""
    assert app("code: app\nname: App\nversion: 1.0") == Policy()


def test_a_manifest_without_a_file_is_a_ceiling_of_all_it_has():
    """A manifest that was made in Python has all fields, so it is a complete ceiling."""
    nothing = Policy(read=(), write=(), net=(), run=(), store_read=(), store_write=(), services={})
    assert Policy.from_manifest(Manifest(code="app")) == nothing


def test_narrowing():
    """Both ceilings hold, field by field; None leaves the other's."""
    mine = Policy(
        read=("data", "logs/app"),
        net=("*.example.com", "127.0.0.1:80"),
        run=("a", "b"),
        services={"weather": None, "news": ("read",), "mail": ("read", "send")},
    )
    other = Policy(
        read=("data/in", "logs", "data"),
        write=("out",),
        net=("a.example.com", "127.0.0.1", "other.example"),
        run=("b", "c"),
        services={"weather": ("read",), "mail": ("send",), "extra": None},
    )
    assert mine.narrowed_by(other) == Policy(
        read=("data", "logs/app", "data/in"),
        write=("out",),
        net=("a.example.com", "127.0.0.1:80"),
        run=("b",),
        services={"weather": ("read",), "mail": ("send",)},
    )
    assert mine.narrowed_by(Policy()) == mine
    assert Policy(net=("localhost",)).narrowed_by(Policy()).net == ("localhost",)


def test_a_file_cannot_open_what_the_default_keeps_shut():
    """Narrowing the default policy by hosts that are not public grants none of them."""
    assert Policy().narrowed_by(Policy(net=("localhost", "example.com"))).net == ("example.com",)
    assert Policy().narrowed_by(Policy(net=("public", "localhost"))).net == ("public",)


@pytest.mark.parametrize(
    ("host", "is_granted"),
    [
        ("example.com", True),
        ("*.example.com:443", True),
        ("127.0.0.1:8080", True),
        ("127.0.0.1:8081", False),
        ("127.0.0.1", False),
        ("localhost:8080", False),
        ("169.254.169.254", False),
        ("public", False),
        ("public:443", False),
        ("127.1", False),
    ],
)
def test_public_hosts_beside_named_ones(host, is_granted):
    """The entry `public` stands for all public hosts, and for no host of that name."""
    assert grantable(Policy(net=("public", "127.0.0.1:8080")), asking(net=(host,))) is is_granted


def test_public_hosts_on_one_port():
    """`public:443` grants public hosts on that port only."""
    policy = Policy(net=("public:443",))
    assert grantable(policy, asking(net=("example.com:443",)))
    assert not grantable(policy, asking(net=("example.com",)))
    assert not grantable(policy, asking(net=("example.com:80",)))
    assert not grantable(policy, asking(net=("10.0.0.1:443",)))


@pytest.mark.parametrize(
    ("mine", "other", "both"),
    [
        (("public",), ("public:443", "localhost"), ("public:443",)),
        (("public", "localhost"), ("example.com", "localhost:80"), ("localhost:80", "example.com")),
        (("public:443",), ("example.com", "example.com:80"), ("example.com:443",)),
        (("public:443",), ("public:80",), ()),
        (("example.com:80",), ("public",), ("example.com:80",)),
    ],
)
def test_narrowing_with_public_hosts(mine, other, both):
    """What both cover is left of `public` too."""
    assert Policy(net=mine).narrowed_by(Policy(net=other)).net == both


_PATHS = st.sampled_from([".", "data", "data/x", "data-secrets", "logs"])
_HOSTS = st.sampled_from(
    ["example.com", "*.example.com", "a.example.com:1", "example.com:1", "localhost", "10.0.0.1", "public"]
)
_NAMES = st.sampled_from(["a", "b"])


def _some(entries):
    return st.lists(entries, max_size=3).map(tuple)


_FIELDS = {
    "read": _PATHS,
    "write": _PATHS,
    "net": _HOSTS,
    "run": _NAMES,
    "store_read": _NAMES,
    "store_write": _NAMES,
}
_POLICIES = st.builds(
    Policy,
    **{name: st.none() | _some(entries) for name, entries in _FIELDS.items()},
    services=st.none() | st.dictionaries(_NAMES, st.none() | _some(_NAMES)),
)


@st.composite
def _manifests(draw):
    field = draw(st.sampled_from([*_FIELDS, "services"]))
    if field == "services":
        return asking(services=draw(st.dictionaries(_NAMES, _some(_NAMES), max_size=1)))
    return asking(**{field: (draw(_FIELDS[field]),)})


@given(_POLICIES, _POLICIES, _manifests())
def test_narrowing_never_widens(mine, other, manifest):
    """What a narrowed policy grants, the first one grants, and the second wherever it says anything."""
    both = grantable(mine.narrowed_by(other), manifest)
    said = grantable(other, manifest)
    if both:
        assert grantable(mine, manifest)
        assert said or (other.net is None and manifest.permissions.net)
    if grantable(mine, manifest) and said:
        assert both


@given(_POLICIES, _manifests())
def test_grants_are_what_was_asked(policy, manifest):
    """A policy grants all that a manifest asks for, or raises; never a part and never more."""
    if grantable(policy, manifest):
        assert policy.grants(manifest) == Grants(
            read=manifest.permissions.read,
            write=manifest.permissions.write,
            net=manifest.permissions.net,
            run=manifest.permissions.run,
            store_read=manifest.permissions.store.read,
            store_write=manifest.permissions.store.write,
            services={name: frozenset(words) for name, words in manifest.services.items()},
        )


@pytest.mark.parametrize(
    ("field", "pattern"),
    [
        ("net", "h{}.example"),
        ("net", "*.h{}.example"),
        ("read", "d/{}/x"),
        ("run", "p{}"),
        ("store_read", "g{}"),
    ],
)
def test_many_entries_against_a_large_ceiling(field, pattern):
    """Each is looked up: to compare 3,000 with 3,000 would take minutes, on the event loop."""
    ceiling = Policy(**{field: tuple(pattern.format(number) for number in range(3000))})
    asked = asking(**{field: tuple(pattern.format(number + 1500) for number in range(3000))})
    began = time.thread_time()
    assert len(ceiling.refusals(asked)) == 1500
    assert time.thread_time() - began < 1
