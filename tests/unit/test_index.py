"""The index of a marketplace: what it may say, and how plugins are found in it."""

from __future__ import annotations

import base64
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coredeno.errors import IndexInvalid, UsageError
from coredeno.install.index import LIMIT_ENTRIES, LIMIT_INDEX_BYTES, Index, IndexEntry

KEY = "ab" * 32
ORIGIN = "https://example.org/index.git: index.json"


def plugin(code: str = "tagger", **changes) -> dict:
    return {
        "code": code,
        "name": code.title(),
        "description": "Finds tags.",
        "version": "1.2.0",
        "categories": ["photo"],
        "source": f"https://example.org/{code}.git",
        "key": KEY,
    } | changes


def parsed(*plugins: dict, **changes) -> Index:
    return Index.parse(as_json({"format": 1, "name": "Market", "plugins": plugins} | changes), origin=ORIGIN)


def as_json(value) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture(scope="module")
def market() -> Index:
    return parsed(
        plugin("viewer", name="Photo Viewer", description="Shows pictures and their Größe."),
        plugin("photo-tagger", name="Tags", description="For pictures.", categories=["Photo", "AI"]),
        plugin("notes", name="Notes", description="Text with photo links.", categories=["text"]),
        plugin("photo", name="Albums", description="", categories=[]),
    )


def codes(entries: list[IndexEntry]) -> list[str]:
    return [entry.code for entry in entries]


def test_every_field_is_read():
    """As it was written; the key in its one spelling."""
    everything = plugin(
        ref="v1.2.0",
        homepage="https://example.org/tagger?a=b",
        digest="cd" * 32,
        key=base64.b64encode(bytes.fromhex(KEY)).decode(),
        description="Tägger 🏷 — finds “tags” 👩‍🚀 وسوم.",
    )
    index = parsed(everything)
    assert (index.name, index.origin) == ("Market", ORIGIN)
    assert index.entries == (IndexEntry(**(everything | {"key": KEY, "categories": ("photo",)})),)


def test_what_an_index_shows():
    """Its name, and how many plugins it has: a prompt prints it."""
    assert repr(parsed(plugin(), name="Acme plugins")) == "<Index 'Acme plugins', 1 plugin>"
    assert repr(parsed(plugin(), plugin("other"), name="Two")) == "<Index 'Two', 2 plugins>"
    assert repr(parsed(name="Empty")) == "<Index 'Empty', 0 plugins>"


def test_what_may_be_missing():
    """The ref, the homepage and the digest; null is as good as missing."""
    (entry,) = parsed(plugin(ref=None)).entries
    assert (entry.ref, entry.homepage, entry.digest) == (None, None, None)
    assert parsed().entries == ()


BAD = {
    "no key": ({"key": ...}, "key: is missing, wanted the public key"),
    "no code": ({"code": ...}, "missing required field `code`"),
    "no source": ({"source": ...}, "missing required field `source`"),
    "key null": ({"key": None}, "key: Expected `str`"),
    "short key": ({"key": "abcd"}, "public key: is 'abcd'"),
    "code leads out": ({"code": "../x"}, "code: is '../x'"),
    "code upper": ({"code": "Tagger"}, "code: is 'Tagger'"),
    "code a number": ({"code": 7}, "code: Expected `str`, got `int`"),
    "endless code": ({"code": "a" * 64}, "code: Expected `str` of length <= 63"),
    "version": ({"version": "new"}, "version: is 'new'"),
    "endless version": ({"version": "1" * 65}, "version: Expected `str` of length <= 64"),
    "digest": ({"digest": "CD" * 32}, "digest: is none"),
    "digest with newline": ({"digest": "cd" * 32 + "\n"}, "digest: is none"),
    "unknown field": ({"stars": 5}, "unknown field `stars`"),
    "unknown field that is odd": ({"\x1b[2J\ud800": 5}, "valid Unicode"),
    "unknown field that clears": ({"\x1b[2J": 5}, r"unknown field `\x1b[2J`"),
    "no name": ({"name": ""}, "name: has 0 characters"),
    "blank name": ({"name": "  "}, "name: is '  ', wanted no spaces"),
    "long name": ({"name": "x" * 129}, "name: has 129 characters, wanted 1 to 128"),
    "long description": ({"description": "x" * 2049}, "wanted 0 to 2,048"),
    "name of two lines": ({"name": "a\nb"}, "name: has a control"),
    "escape": ({"description": "\x1b[31mred"}, "description: has a control"),
    "tab": ({"description": "a\tb"}, "description: has a control"),
    "C1": ({"description": "a\x9bb"}, "description: has a control"),
    "bidi": ({"name": "a\u202eb"}, "name: has a control character or direction mark"),
    "isolate": ({"categories": ["a\u2066b"]}, "category: has a control"),
    "surrogate": ({"description": "\ud800"}, "description: has a control"),
    "categories a text": ({"categories": "photo"}, "categories: Expected `array`"),
    "category a number": ({"categories": [7]}, "categories[0]: Expected `str`"),
    "empty category": ({"categories": [""]}, "category: has 0"),
    "categories": ({"categories": ["x"] * 33}, "categories: are 33"),
    "no source text": ({"source": ""}, "source: has 0"),
    "source of two lines": ({"source": "https://a\nb"}, "source: has a control"),
    "empty ref": ({"ref": ""}, "ref: has 0"),
    "ref": ({"ref": "a\0"}, "ref: has a control"),
    "script": ({"homepage": "javascript:alert(1)"}, "homepage: is 'javascript:alert(1)', wanted https"),
    "homepage": ({"homepage": "https://a\u2028"}, "homepage: is"),
}


@pytest.mark.parametrize(("changes", "problem"), BAD.values(), ids=BAD)
def test_a_bad_entry_is_refused(changes: dict, problem: str):
    """The error names the index, the entry by place and code, and the field; it is fit for a terminal."""
    bad = {name: value for name, value in (plugin() | changes).items() if value is not ...}
    with pytest.raises(IndexInvalid) as caught:
        parsed(plugin("first"), bad)
    code = bad.get("code")
    called = f" ({code!r})" if isinstance(code, str) else ""
    assert caught.value.entry == f"plugins[1]{called}"
    assert caught.value.origin == ORIGIN
    assert problem in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_code_that_stands_twice_is_refused():
    """Or the later one would quietly take the place of the other."""
    with pytest.raises(IndexInvalid, match=r"plugins\[2\] \('a'\): code: is that of plugins\[0\] already"):
        parsed(plugin("a"), plugin("b"), plugin("a", name="Other"))


@pytest.mark.parametrize(
    ("data", "entry", "problem"),
    [
        (b"", "", "is not JSON"),
        (b"<!doctype html>", "", "is not JSON"),
        (b"[]", "", "is not an object"),
        (b"[" * 100_000, "", "nested too deeply"),
        (as_json({"format": 2, "whatever": 1}), "format", "needs a newer coredeno"),
        (as_json({"format": 1, "name": "M"}), "", "plugins"),
        (as_json({"format": 1, "name": "M", "plugins": [7]}), "plugins[0]", "Expected `object`"),
        (as_json({"format": 1, "name": "M", "plugins": {}}), "plugins", "Expected `array`"),
        (as_json({"format": 1, "name": "M", "plugins": [], "x": 1}), "", "unknown field"),
        (as_json({"format": 1, "name": "M\r", "plugins": []}), "", "name: is 'M\\r'"),
        (as_json({"format": 1, "name": "a\x1bb", "plugins": []}), "", "name: has a control"),
        (b'{"format":1,"name":"M","plugins":[{"key":"a","key":"b"}]}', "", "'key' twice"),
        (b" " * (LIMIT_INDEX_BYTES + 1), "", "wanted at most 16,777,216"),
        (
            b'{"format":1,"name":"M","plugins":[' + b"{}," * LIMIT_ENTRIES + b"{}]}",
            "",
            "has 100,001 plugins, wanted at most 100,000",
        ),
    ],
)
def test_what_is_no_index(data: bytes, entry: str, problem: str):
    """A page of HTML, another format, other kinds, too much: one kind of error."""
    with pytest.raises(IndexInvalid) as caught:
        Index.parse(data, origin=ORIGIN)
    assert caught.value.entry == entry
    assert problem in str(caught.value)


values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=6)
    | st.lists(st.text(max_size=3), max_size=2)
)


@given(
    st.one_of(
        st.binary(max_size=40),
        st.dictionaries(st.sampled_from(["format", "name", "plugins"]), values).map(as_json),
        st.dictionaries(
            st.sampled_from([*plugin(), "ref", "homepage", "digest", "x"]), values, max_size=2
        ).map(lambda changes: as_json({"format": 1, "name": "M", "plugins": [plugin() | changes]})),
    )
)
def test_any_bytes_give_an_index_or_its_error(data: bytes):
    """Nothing else is raised; what is read can be shown."""
    try:
        index = Index.parse(data, origin="o")
    except IndexInvalid:
        return
    for entry in index.entries:
        assert not any(
            ord(char) < 32 for text in (entry.name, entry.description, entry.source) for char in text
        )


def test_find(market: Index):
    """By the very code."""
    assert market.find("notes") is market.entries[2]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("foto", "has no plugin 'foto'"),
        ("photos", "has no plugin 'photos', the nearest are 'photo'"),
        ("Viewers", "the nearest are 'viewer'"),
        ("", "has no plugin ''"),
        ("a\x1b", r"has no plugin 'a\x1b'"),
        ("x" * 100_000, "xxx'"),
    ],
)
def test_find_names_what_is_near(market: Index, code: str, message: str):
    """A slip of the pen is told, and nothing reaches a terminal but text."""
    with pytest.raises(UsageError) as caught:
        market.find(code)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("photo", ["photo", "photo-tagger", "viewer", "notes"]),
        ("PHOTO", ["photo", "photo-tagger", "viewer", "notes"]),
        (" photo ", ["photo", "photo-tagger", "viewer", "notes"]),
        ("photo tag", ["photo-tagger"]),
        ("tag photo", ["photo-tagger"]),
        ("pictures", ["viewer", "photo-tagger"]),
        ("grösse", ["viewer"]),
        ("ai", ["photo-tagger"]),
        ("photo absent", []),
        ("notesnotes", []),
        ("pictures.photo", []),
        ("", ["viewer", "photo-tagger", "notes", "photo"]),
    ],
)
def test_search(market: Index, text: str, found: list[str]):
    """Every word must occur somewhere; the code itself first, then codes, names and the rest, in the index's order."""
    if text == "grösse":
        text = "GRÖSSE"
    assert codes(market.search(text)) == found


def test_categories(market: Index):
    """Each once, sorted, in the spelling that stands there; found whatever the case."""
    assert market.categories == ("AI", "Photo", "photo", "text")
    assert codes(market.category("PHOTO")) == ["viewer", "photo-tagger"]
    assert market.category("none") == []


def test_ten_thousand_plugins():
    """Are read in less than a second of processor time, and searched in less than another."""
    data = as_json(
        {
            "format": 1,
            "name": "Large",
            "plugins": [plugin(f"tagger-{number}", description="word " * 40) for number in range(10_000)],
        }
    )
    start = time.process_time()
    index = Index.parse(data, origin=ORIGIN)
    parsed_at = time.process_time()
    assert len(index.search("tagger word 99")) == 280
    with pytest.raises(UsageError, match="nearest"):
        index.find("tager-17")
    searched_at = time.process_time()
    assert parsed_at - start < 1
    assert searched_at - parsed_at < 1
