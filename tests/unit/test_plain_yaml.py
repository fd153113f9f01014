"""The part of YAML that is read: every value is text, and what does not fit is refused by line."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from coredeno.plain_yaml import LIMIT_BYTES, LIMIT_DEPTH, LIMIT_NODES, PlainYamlError, parse_plain_yaml

PARSERS = {"libyaml": yaml.CSafeLoader, "python": yaml.SafeLoader}


@pytest.fixture(params=PARSERS)
def parser(request):
    return PARSERS[request.param]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1.0", {"a": "1.0"}),
        ("a: no", {"a": "no"}),
        ("a: 12:30:45", {"a": "12:30:45"}),
        ("a: 0o17", {"a": "0o17"}),
        ("a: 2024-01-05", {"a": "2024-01-05"}),
        ("[true, .inf, =]", ["true", ".inf", "="]),
        ("a: |\n  x\n  y\n", {"a": "x\ny\n"}),
        ("a: >-\n  x\n  y\n", {"a": "x y"}),
        ('a: "\\x41\\u00e9"', {"a": "Aé"}),
        ("a: 'it''s'", {"a": "it's"}),
        ("- a\n- - b\n  - c: d\n", ["a", ["b", {"c": "d"}]]),
        ("a: {b: [c, d], e: f} # note\n", {"a": {"b": ["c", "d"], "e": "f"}}),
        ("1: a\nyes: b\n", {"1": "a", "yes": "b"}),
        ("--- a\n...\n", "a"),
    ],
)
def test_scalars_stay_text(parser, text, value):
    """A value is the text that was written, whatever YAML would make of it."""
    assert parse_plain_yaml(text.encode(), loader=parser) == value


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "~", "null", "\n\n"])
def test_nothing_written_is_none(parser, text):
    """A document in which nothing stands is None."""
    assert parse_plain_yaml(text.encode(), loader=parser) is None


def test_bare_null_is_none_and_quoted_null_is_text(parser):
    """Only a bare empty value, `~` or `null` is None; quotes make it text, and keys are always text."""
    text = "a:\nb: ~\nc: null\nd: NULL\ne: ''\nf: '~'\ng: \"null\"\nnull: nulL\n'<<': x\n"
    assert parse_plain_yaml(text.encode(), loader=parser) == {
        **dict.fromkeys("abcd"),
        "e": "",
        "f": "~",
        "g": "null",
        "null": "nulL",
        "<<": "x",
    }


@pytest.mark.parametrize("data", [b"\xef\xbb\xbfa: b\r\nc: d\r\n", b"a: b\nc: d\n", b"a: b\rc: d\r"])
def test_line_ends_and_byte_order_mark(parser, data):
    """Files of any platform mean the same."""
    assert parse_plain_yaml(data, loader=parser) == {"a": "b", "c": "d"}


@pytest.mark.parametrize(
    ("data", "line", "word"),
    [
        (b"a: 1\nb: 2\na: 3\n", 3, "'a' stands here again, first in line 1"),
        (b"p: {x: 1, x: 2}", 1, "'x' stands here again"),
        (b"a: 1\n'a': 2\n", 2, "'a' stands here again"),
        (b"a: &x 1\n", 1, "anchor"),
        (b"&x a: 1\n", 1, "anchor"),
        (b"a: [&x b, *x]\n", 1, "anchor"),
        (b"a: *x\n", 1, "alias"),
        (b"*x : a\n", 1, "alias"),
        (b"a: !!str 1\n", 1, "tag"),
        (b"a: ! 1\n", 1, "tag"),
        (b"a: !!python/object:os.system []\n", 1, "tag"),
        (b"a: 1\n<<: {b: c}\n", 2, "merge"),
        (b"a: 1\n---\nb: 2\n", 2, "second document"),
        (b"%YAML 1.1\n---\na: 1\n", 1, "directive"),
        (b"%TAG ! x\n---\na: 1\n", 1, "directive"),
        (b"? [a]\n: b\n", 1, "as a key"),
        (b"a: 1\nb: \xff\n", 2, "0xff is not UTF-8"),
        (b"\xff\xfea\x00", 1, "not UTF-8"),
        (b"a: \xed\xa0\x80\n", 1, "not UTF-8"),
        (b"a: 1\nb: \x1b[2J\n", 2, "U+001B"),
        (b"a: \x00\n", 1, "U+0000"),
        (b"a:\tb\n", 1, "U+0009"),
        (b"\n\na: \xc2\x85\n", 3, "U+0085"),
        (b"a: \xe2\x80\xae\n", 1, "U+202E"),
        (b"a: x\xef\xbb\xbf\n", 1, "U+FEFF"),
        (b'a: "\\0"\n', 1, "U+0000"),
        (b'a: "\\e[2J"\n', 1, "U+001B"),
        (b'a: "\\r"\n', 1, "U+000D"),
        (b'"\\t": a\n', 1, "U+0009"),
        (b'"a\\nb": c\n', 1, "more than one line"),
        (b"? " + b"k" * 129 + b"\n: v\n", 1, "128 characters"),
        (b"a: [\n", 2, "is not YAML"),
        (b"a: 1\n b: 2\n", 2, "is not YAML"),
        (b"a: b: c\n", 1, "is not YAML"),
        (b"a: @b\n", 1, "is not YAML"),
        (b"a: 'x\n", 2, "is not YAML"),
    ],
)
def test_what_does_not_fit_is_refused_by_line(parser, data, line, word):
    """Whatever is not plain is refused, and the error says in which line."""
    with pytest.raises(PlainYamlError) as caught:
        parse_plain_yaml(data, loader=parser)
    assert (caught.value.line, word in caught.value.problem) == (line, True), str(caught.value)


@pytest.mark.parametrize("escape", ["\\uD800", "\\U00110000", "\\UFFFFFFFF", "\\q"])
def test_escapes_of_no_character(parser, escape):
    """An escape that stands for no character is the declared error, in both parsers."""
    with pytest.raises(PlainYamlError):
        parse_plain_yaml(f'a: "{escape}"'.encode(), loader=parser)


def test_depth(parser):
    """Eight levels are read, nine are refused, and any number ends at once."""
    assert parse_plain_yaml(b"[" * LIMIT_DEPTH + b"]" * LIMIT_DEPTH, loader=parser) is not None
    with pytest.raises(PlainYamlError, match="nested too deeply"):
        parse_plain_yaml(b"[" * (LIMIT_DEPTH + 1), loader=parser)
    # PyYAML's C parser has a bound of its own from 6.0.4 on, and looks so far ahead that it finds it first.
    with pytest.raises(PlainYamlError, match=r"nested too deeply|exceeded maximum nesting depth"):
        parse_plain_yaml(b"[" * LIMIT_BYTES, loader=parser)


def test_nodes(parser):
    """Keys and values are counted together: 4,096 are read, one more is refused."""
    entries = b"a," * (LIMIT_NODES - 1)
    assert len(parse_plain_yaml(b"[" + entries + b"]", loader=parser)) == LIMIT_NODES - 1
    with pytest.raises(PlainYamlError, match="too many values"):
        parse_plain_yaml(b"[" + entries + b"b]", loader=parser)


def test_size(parser):
    """64 KiB are read, one byte more is refused."""
    assert parse_plain_yaml(b"a" * LIMIT_BYTES, loader=parser) == "a" * LIMIT_BYTES
    with pytest.raises(PlainYamlError, match="65,537 bytes, wanted at most 65,536"):
        parse_plain_yaml(b"a" * (LIMIT_BYTES + 1), loader=parser)


def test_message_without_a_line():
    """An error about the whole file names no line."""
    assert str(PlainYamlError("is odd")) == "is odd"
    assert str(PlainYamlError("is odd", line=3)) == "line 3: is odd"


_PIECES = st.sampled_from(
    [
        *[
            "a",
            "code",
            ": ",
            ":",
            "- ",
            "\n",
            "  ",
            "[",
            "]",
            "{",
            "}",
            ",",
            "'",
            '"',
            "#",
            " #",
            "|",
            ">",
            "? ",
        ],
        *[
            "~",
            "\\x41",
            "\\uD800",
            "\\U00110000",
            "\\0",
            "<<",
            "&x ",
            "*x",
            "!",
            "!!str ",
            "---",
            "...",
            "|2",
        ],
        *["%YAML 1.1\n", "\t", "\r\n", "é", "%", "@", "`", "-", "=", "!<a>", "!%ff", "\\\n", "😀", "\x00"],
    ]
)
_TEXTS = st.lists(_PIECES, max_size=20).map(lambda pieces: "".join(pieces).encode())


@given(st.binary(max_size=200) | _TEXTS)
def test_any_bytes_give_a_value_or_the_declared_error(data):
    """Whatever the bytes, there is a plain value or `PlainYamlError`; both parsers read the same value."""
    read = []
    for loader in PARSERS.values():
        try:
            read.append(parse_plain_yaml(data, loader=loader))
        except PlainYamlError:
            continue
    assert read[1:] in ([], read[:1])


_TEXT = st.text(st.characters(categories=["L", "N", "P", "S"], include_characters=" "), max_size=20)
_VALUES = st.recursive(
    _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=20,
).filter(lambda value: len(repr(value)) < 20_000)


def _depth(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


@given(_VALUES.filter(lambda value: _depth(value) <= LIMIT_DEPTH))
def test_what_pyyaml_writes_is_read_back(value):
    """Any mappings, lists and texts within the bounds come back as they were, in quotes."""
    written = yaml.safe_dump(value, default_style='"', allow_unicode=True, width=10_000)
    written = written.replace("!!map ", "").replace("!!seq ", "")
    assert parse_plain_yaml(written.encode()) == value
