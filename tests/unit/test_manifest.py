"""The manifest: what it may say, and what each error names."""

from __future__ import annotations

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from coredeno.errors import ManifestError
from coredeno.manifest import (
    Manifest,
    ManifestLimits,
    OptionalPermissions,
    Permissions,
    StoreGroups,
    parse_manifest,
    parse_permissions,
)

SEED = b"""
code: photo-browser
name: Photo Browser
version: 0.1.0
sign: dGVzdHNpZw==

layout: HLCRF
slots:
  H: nav-breadcrumb
  C: photo-grid

permissions:
  read: ["./photos/"]
  write: []
  net: []
  run: []

modules:
  - core/media
  - core/fs
"""

FULL = """
code: tagger
name: Tägger 🏷
version: "1.2.0-beta.1+5"
entry: ./src/main.ts
api: ">=1,<2"
permissions:
  read: [data/, ., ./data]
  write: [data/out]
  net: [API.example.com:443, "*.example.org", "[::1]:80"]
  run: [ffmpeg, g++]
  store: {read: [news, Other Group], write: [news]}
  optional:
    read: [photos]
    store: {write: [mail]}
services:
  weather: [read, write.all]
  news:
events: [photo.saved, "app:idle"]
limits: {memory_mb: 256, call_timeout_s: 2.5, calls_in_flight: 8}
config:
  type: object
  properties: {days: {type: integer, default: 3, enum: [1, 2, 3]}}
""".encode()


def parse(text):
    return parse_manifest(text.encode() if isinstance(text, str) else text, file="p/.core/view.yml")


def refused(text):
    with pytest.raises(ManifestError) as caught:
        parse(text)
    return caught.value


def test_a_manifest_of_the_seed():
    """A manifest that was written for the original is read as it stands."""
    assert parse(SEED) == Manifest(
        code="photo-browser",
        name="Photo Browser",
        version="0.1.0",
        sign="dGVzdHNpZw==",
        layout="HLCRF",
        slots={"H": "nav-breadcrumb", "C": "photo-grid"},
        permissions=Permissions(read=("photos",)),
        modules=("core/media", "core/fs"),
        absent=frozenset({"entry", "api", "services", "events", "limits", "config"}),
    )


def test_every_field():
    """All fields are read, each in its one spelling."""
    assert parse(FULL) == Manifest(
        code="tagger",
        name="Tägger 🏷",
        version="1.2.0-beta.1+5",
        entry="src/main.ts",
        api=">=1,<2",
        permissions=Permissions(
            read=("data", "."),
            write=("data/out",),
            net=("api.example.com:443", "*.example.org", "[::1]:80"),
            run=("ffmpeg", "g++"),
            store=StoreGroups(read=("news", "Other Group"), write=("news",)),
            optional=OptionalPermissions(read=("photos",), store=StoreGroups(write=("mail",))),
        ),
        services={"weather": ("read", "write.all"), "news": ()},
        events=("photo.saved", "app:idle"),
        limits=ManifestLimits(memory_mb=256, call_timeout_s=2.5, calls_in_flight=8),
        config={
            "type": "object",
            "properties": {"days": {"type": "integer", "default": "3", "enum": ["1", "2", "3"]}},
        },
        absent=frozenset({"sign", "layout", "slots", "modules"}),
    )


def test_defaults():
    """Only the code is required; the rest has defaults."""
    manifest = parse("code: a")
    assert (manifest.name, manifest.version, manifest.entry, manifest.api) == ("a", "0.0.0", "main.ts", "")
    assert manifest.permissions == Permissions()
    assert manifest.limits == ManifestLimits(memory_mb=None, call_timeout_s=None, calls_in_flight=None)
    assert Manifest(code="a").absent == frozenset()


def test_empty_values_are_as_good_as_none():
    """A field without a value, or with an empty one as Go's marshaller writes them, has its default."""
    text = (
        "code: a\nname: ''\nversion: \"\"\nsign:\nlayout: ~\nslots: {}\npermissions:\nmodules: []\nentry:\n"
    )
    text += "services:\nlimits: null\nconfig:\n"
    assert msgspec.structs.replace(parse(text), absent=frozenset()) == Manifest(code="a")
    nested = parse("code: a\npermissions:\n  read:\n  store:\n  optional:\n")
    assert nested.permissions == Permissions()


def test_a_field_without_a_value_is_not_absent():
    """`absent` names what the file does not have at all."""
    assert "permissions" not in parse("code: a\npermissions:\n").absent
    assert {"permissions", "services"} <= parse("code: a").absent


@pytest.mark.parametrize(
    "code", ["a", "0", "photo-browser", "core.status", "a_b", "a--b", "a" * 63, "7zip", "null", "1.0"]
)
def test_codes(code):
    """A code is made of lower case letters, digits, and inner `-`, `_` and `.`."""
    assert parse(f"code: '{code}'").code == code


@pytest.mark.parametrize(
    "code",
    [
        *["../x", "a/b", ".staging", "A", "aB", "a" * 64, "a" * 70, "-a", "a-", "_a", "a_", ".", "..", "a."],
        *["a..b", "a b", "mod\\n", "mod\\n\\n", "é", "\uff41", "a\\\\b", "a:b", "a%", " a", "a "],
    ],
)
def test_codes_that_are_none(code):
    """What could not be a folder, a store group and a logger's name is no code."""
    error = refused(f'code: "{code}"')
    assert error.field == "code"
    assert "wanted 1 to 63 of a-z 0-9 - _ ." in str(error)


@pytest.mark.parametrize("text", ["", "name: a", "code:", "code: ~", "code: ''", "{}"])
def test_the_code_is_required(text):
    """A manifest without a code is refused."""
    error = refused(text)
    assert error.field in ("code", "")
    assert "wanted" in str(error)


@pytest.mark.parametrize(
    ("text", "field", "nearest"),
    [
        ("permisions: {}", "permisions", "permissions"),
        ("Code: b", "Code", "code"),
        ("service: {}", "service", "services"),
        ("permissions: {reed: [a]}", "permissions.reed", "read"),
        ("permissions: {store: {reads: [a]}}", "permissions.store.reads", "read"),
        ("permissions: {optional: {optional: {}}}", "permissions.optional.optional", ""),
        ("permissions: {env: [HOME]}", "permissions.env", ""),
        ("limits: {memory: 3}", "limits.memory", "memory_mb"),
        ("__proto__: {}", "__proto__", ""),
        ("zzz:", "zzz", ""),
    ],
)
def test_unknown_fields(text, field, nearest):
    """An unknown field is refused, even an empty one; the error names it and the nearest known one."""
    error = refused(f"code: a\n{text}")
    assert error.field == field
    assert "is not a known field, the nearest is '" in str(error)
    if nearest:
        assert f"the nearest is {nearest!r}" in str(error)


@pytest.mark.parametrize(
    ("text", "field", "problem"),
    [
        ("name: [a]", "name", "is a list, wanted text"),
        ("name: {a: b}", "name", "is a mapping, wanted text"),
        ('name: "a\\nb"', "name", "is 'a\\nb', wanted one line"),
        (f"name: {'a' * 129}", "name", "wanted one line of 1 to 128 characters"),
        ("version: one", "version", "is 'one', wanted a version such as 1.2.0"),
        ("version: v1.0", "version", "wanted a version"),
        ("version: 1.2.", "version", "wanted a version"),
        ("version: 1.2.3.4.5", "version", "wanted a version"),
        ("version: 1-", "version", "wanted a version"),
        ("version: 1.٢", "version", "wanted a version"),
        ('version: "1.0\\n"', "version", "wanted a version"),
        (f"version: 1-{'a' * 63}", "version", "at most 64 characters"),
        ("sign: a b", "sign", "wanted base64"),
        ("layout: [H]", "layout", "is a list, wanted text"),
        ("slots: [a]", "slots", "is a list, wanted a mapping"),
        ("slots: {H: [a]}", "slots.H", "is a list, wanted text"),
        ("slots: {H: }", "slots.H", "is empty, wanted text"),
        ("slots: {'': a}", "slots.", "wanted one line"),
        ("permissions: read", "permissions", "is 'read', wanted a mapping of fields"),
        ("permissions: {read: data}", "permissions.read", "is 'data', wanted a list, such as [a, b]"),
        ("permissions: {read: {data: }}", "permissions.read", "is a mapping, wanted a list"),
        ("permissions: {read: [a, [b]]}", "permissions.read[1]", "is a list, wanted text"),
        ("permissions: {read: [a, ]}\nname: [", "", "line 4: is not YAML"),
        ("permissions:\n  read:\n  - a\n  -\n", "permissions.read[1]", "is empty, wanted text"),
        ("permissions: {read: ['']}", "permissions.read[0]", "wanted 1 to 1,024"),
        ("permissions: {read: [../a]}", "permissions.read[0]", "'../a': it has an empty or '..' part"),
        ("permissions: {read: [a, /etc]}", "permissions.read[1]", "'/etc': it is absolute"),
        ("permissions: {write: ['a,b']}", "permissions.write[0]", "is 'a,b', wanted a path without commas"),
        ('permissions: {write: ["a\\nb"]}', "permissions.write[0]", "control character"),
        ("permissions: {write: ['a\\b']}", "permissions.write[0]", "backslash"),
        ("permissions: {read: [.Core/x]}", "permissions.read[0]", "wanted a path outside .core"),
        ("permissions: {net: ['*']}", "permissions.net[0]", "host '*': wanted a host name"),
        (
            "permissions: {net: [2130706433]}",
            "permissions.net[0]",
            "wanted an address of four decimal numbers",
        ),
        ("permissions: {net: [a.example:0]}", "permissions.net[0]", "wanted a port"),
        ("permissions: {net: ['a.example,b.example']}", "permissions.net[0]", "wanted a host name"),
        ("permissions: {run: [/bin/sh]}", "permissions.run[0]", "is '/bin/sh', wanted a program's name"),
        ("permissions: {run: ['..']}", "permissions.run[0]", "wanted a program's name"),
        ("permissions: {run: [-rf]}", "permissions.run[0]", "wanted a program's name"),
        ("permissions: {run: [a b]}", "permissions.run[0]", "wanted a program's name"),
        ('permissions: {run: ["ls\\n"]}', "permissions.run[0]", "wanted a program's name"),
        ("permissions: {store: [a]}", "permissions.store", "is a list, wanted a mapping"),
        ("permissions: {store: {read: [_x]}}", "permissions.store.read[0]", "not beginning with '_'"),
        ("permissions: {store: {read: ['']}}", "permissions.store.read[0]", "1 to 128 printable characters"),
        (
            f"permissions: {{store: {{write: [{'a' * 129}]}}}}",
            "permissions.store.write[0]",
            "1 to 128 printable",
        ),
        ('permissions: {store: {read: ["a\\nb"]}}', "permissions.store.read[0]", "printable"),
        ("permissions: {optional: {read: [..]}}", "permissions.optional.read[0]", "'..' part"),
        (
            "permissions: {optional: {store: {read: [_]}}}",
            "permissions.optional.store.read[0]",
            "not beginning with",
        ),
        ("modules: core/media", "modules", "wanted a list"),
        ("modules: ['']", "modules[0]", "wanted one line"),
        ("entry: ../main.ts", "entry", "'..' part"),
        ("entry: /main.ts", "entry", "absolute"),
        ("entry: .", "entry", "wanted the path of a file"),
        ("entry: ./", "entry", "wanted the path of a file"),
        ("api: one", "api", "wanted a range of versions such as '>=1,<2'"),
        ("api: '>=1,'", "api", "wanted a range"),
        ("api: '=1'", "api", "wanted a range"),
        (f"api: '1{', 1' * 8}'", "api", "wanted a range"),
        (f"api: '1{(',' + ' ' * 9_000) * 7}'", "api", "wanted a range"),
        ("services: [weather]", "services", "is a list, wanted a mapping"),
        ("services: {weather: read}", "services.weather", "is 'read', wanted a list"),
        ("services: {Weather: []}", "services.Weather", "wanted a service's name"),
        ("services: {_x: []}", "services._x", "wanted a service's name"),
        ("services: {weather: [weather:read]}", "services.weather[0]", "wanted a permission's name"),
        ("events: [photo saved]", "events[0]", "wanted an event's name"),
        ("limits: {memory_mb: [1]}", "limits.memory_mb", "is a list, wanted text"),
        ("limits: {memory_mb: 15}", "limits.memory_mb", "is '15', wanted a whole number from 16 to 65,536"),
        ("limits: {memory_mb: 65537}", "limits.memory_mb", "wanted a whole number"),
        ("limits: {memory_mb: 64.5}", "limits.memory_mb", "wanted a whole number"),
        ("limits: {memory_mb: 0x40}", "limits.memory_mb", "wanted a whole number"),
        ("limits: {memory_mb: ٦٤}", "limits.memory_mb", "wanted a whole number"),
        ("limits: {call_timeout_s: 0}", "limits.call_timeout_s", "wanted a number from 0.001 to 86,400"),
        ("limits: {call_timeout_s: 1e3}", "limits.call_timeout_s", "wanted a number"),
        ("limits: {call_timeout_s: nan}", "limits.call_timeout_s", "wanted a number"),
        ("limits: {call_timeout_s: -1}", "limits.call_timeout_s", "wanted a number"),
        ("limits: {calls_in_flight: 0}", "limits.calls_in_flight", "wanted a whole number from 1 to 65,536"),
        ("config: [a]", "config", "is a list, wanted a mapping"),
        ("code: b", "", "line 2: key 'code' stands here again, first in line 1"),
    ],
)
def test_values_that_break_a_rule(text, field, problem):
    """An error carries the file, the field, what it is and what was wanted."""
    error = refused(f"code: a\n{text}")
    assert (error.file, error.field) == ("p/.core/view.yml", field)
    assert problem in str(error)
    assert str(error).startswith(f"p/.core/view.yml: {field}".rstrip(": ") + ": ")


@pytest.mark.parametrize("data", [b"[a]", b"text", b"- code: a"])
def test_the_whole_is_a_mapping(data):
    """A manifest is a mapping of fields."""
    assert "wanted a mapping of fields" in str(refused(data))


@pytest.mark.parametrize(
    "version", ["1", "1.0", "0.1.0", "1.2.3.4", "2024.01.05", "1.0-rc1", "1.0.0+build.5-a"]
)
def test_versions(version):
    """A version is numbers with dots, and what follows after `-` or `+`."""
    assert parse(f"code: a\nversion: {version}").version == version


@pytest.mark.parametrize("api", ["1", "==1.2", ">=1,<2", ">= 1.0 , < 2, !=1.5", "<=3"])
def test_api_ranges(api):
    """A range is one clause or several, and kept as text."""
    assert parse(f"code: a\napi: '{api}'").api == api


def test_messages_are_short_and_plain():
    """A long or hostile value is cut and escaped in the error."""
    error = refused('code: a\nevents: ["' + "x" * 60_000 + '\\n"]')
    assert len(str(error)) < 300
    assert str(error).isprintable() or "…" in str(error)


def test_a_manifest_is_frozen_and_hashable_in_its_parts():
    """What was checked cannot be changed afterwards."""
    manifest = parse(FULL)
    with pytest.raises(AttributeError):
        manifest.code = "other"
    assert hash(manifest.permissions) == hash(parse(FULL).permissions)


_FIELDS = [
    "code",
    "name",
    "version",
    "entry",
    "permissions",
    "read",
    "net",
    "store",
    "services",
    "limits",
    "config",
    "x",
]
_SCALARS = st.sampled_from(
    ["a", "", "..", "127.0.0.1", "64", "1.0", "_x", "a\n", ".core", "\ud800"]
) | st.text(max_size=5)
_DOCUMENTS = st.dictionaries(
    st.sampled_from(_FIELDS),
    st.recursive(
        _SCALARS,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_FIELDS), inner, max_size=3)
        ),
        max_leaves=8,
    ),
)


def _written(document):
    text = yaml.safe_dump(document, default_style='"')
    return text.replace("!!map ", "").replace("!!seq ", "").encode("utf-8", "surrogatepass")


@given(
    st.binary(max_size=100) | _DOCUMENTS.map(_written) | st.binary(max_size=20).map(lambda tail: FULL + tail)
)
def test_any_bytes_give_a_manifest_or_the_declared_error(data):
    """Whatever the bytes, there is a manifest or `ManifestError`, and no manifest reaches outside."""
    try:
        manifest = parse_manifest(data, file="view.yml")
    except ManifestError:
        return
    for path in (*manifest.permissions.read, *manifest.permissions.write, manifest.entry):
        assert ".." not in path.split("/")
        assert not path.startswith(("/", ".core"))


@pytest.mark.parametrize(
    ("field", "entry"),
    [
        ("permissions: {read: [%s]}", "d{}"),
        ("permissions: {write: [%s]}", "d{}"),
        ("permissions: {net: [%s]}", "h{}.example"),
        ("permissions: {run: [%s]}", "p{}"),
        ("permissions: {store: {read: [%s]}}", "g{}"),
        ("permissions: {store: {write: [%s]}}", "g{}"),
        ("permissions: {optional: {net: [%s]}}", "h{}.example"),
        ("services: {weather: [%s]}", "w{}"),
        ("services: {%s}", "s{}: []"),
    ],
)
def test_long_lists_are_refused(field: str, entry: str):
    """256 entries of each list of permissions or services, not one more."""

    def manifest(count: int) -> bytes:
        entries = ", ".join(entry.format(number) for number in range(count))
        return f"code: a\n{field % entries}\n".encode()

    parse_manifest(manifest(256), file="view.yml")
    with pytest.raises(ManifestError, match="has 257 entries, wanted at most 256"):
        parse_manifest(manifest(257), file="view.yml")


def test_an_unknown_field_is_repeated_in_part():
    """A request for permissions has names of any length: neither the error nor the search for a near one has."""
    with pytest.raises(ManifestError, match="the nearest is 'read'") as caught:
        parse_permissions({"read" * 1_000_000: []})
    assert len(str(caught.value)) < 500
