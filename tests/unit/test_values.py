"""What may cross: the table "Values" of docs/wire.md, rule by rule."""

from __future__ import annotations

import datetime as dt
import enum
import json
import time
import uuid
from collections import Counter, OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coredeno.errors import ProtocolError, UsageError
from coredeno.wire.codec import decode_plain
from coredeno.wire.values import (
    MAX_BYTES_ENTRIES,
    MAX_DEPTH,
    MAX_SAFE_INTEGER,
    BytesEntry,
    Outgoing,
    check_depth,
    encode,
    put_bytes,
)


def sent(value, *, depth=0):
    return Outgoing(value, ("result",), depth=depth)


def arrived(value):
    """What the other side reads, by way of real JSON and the bytes beside it."""
    outgoing = sent(value)
    message = json.loads(encode({"result": outgoing.plain}, what="test"))
    put_bytes(message, outgoing.entries, outgoing.attachments)
    return message["result"]


class Text(str):
    """A text whose own methods lie."""

    __slots__ = ()

    def __str__(self):
        return self


class Number(int):
    def __int__(self):
        return self

    def __str__(self):
        return "no number"


class Fraction(float):
    def __float__(self):
        return self


class Mapping(dict):
    pass


class Listing(list):
    pass


class Data(bytes):
    pass


Point = namedtuple("Point", "x y")  # noqa: PYI024 - this kind too


class Level(enum.IntEnum):
    LOW = 1


class Flag(enum.IntFlag):
    A = 1
    B = 2


class Colour(enum.Enum):
    RED = "red"
    NUMBER = 2


class Word(enum.StrEnum):
    YES = "yes"


class Tag(msgspec.Struct):
    name: str
    data: Any = None


class Row(msgspec.Struct, array_like=True):
    a: int
    b: int = 0


class Renamed(msgspec.Struct, rename="camel", tag="r"):
    some_field: int = 1


@dataclass
class Point3:
    x: float
    when: dt.date | None = None
    inner: Any = field(default=None)


UTC = dt.UTC

CROSSING = [
    (None, None),
    (True, True),
    (False, False),
    (0, 0),
    (MAX_SAFE_INTEGER, MAX_SAFE_INTEGER),
    (-MAX_SAFE_INTEGER, -MAX_SAFE_INTEGER),
    (1.5, 1.5),
    (-0.0, -0.0),
    (5e-324, 5e-324),
    (1.7976931348623157e308, 1.7976931348623157e308),
    ("", ""),
    ("\0\n\u2028é😀", "\0\n\u2028é😀"),
    ([], []),
    ([1, "a", [None]], [1, "a", [None]]),
    ((1, (2,)), [1, [2]]),
    ({}, {}),
    ({"__proto__": {"": 1}, "é": 2}, {"__proto__": {"": 1}, "é": 2}),
    (b"", b""),
    (b"\0\xff", b"\0\xff"),
    (bytearray(b"ab"), b"ab"),
    (memoryview(b"abcd")[::2], b"ac"),
    (memoryview(b"\1\0\0\0\2\0\0\0").cast("I"), b"\1\0\0\0\2\0\0\0"),
    ({"a": [b"x", {"b": b"y"}]}, {"a": [b"x", {"b": b"y"}]}),
    (Text("lie"), "lie"),
    ({Text("key"): 1}, {"key": 1}),
    (Number(7), 7),
    (Fraction(2.5), 2.5),
    (Mapping(a=Listing([1])), {"a": [1]}),
    (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    (defaultdict(list, a=[1]), {"a": [1]}),
    (Counter("aab"), {"a": 2, "b": 1}),
    (Point(1, b"p"), [1, b"p"]),
    (Data(b"d"), b"d"),
    (Level.LOW, 1),
    (Flag.A | Flag.B, 3),
    (Colour.RED, "red"),
    (Colour.NUMBER, 2),
    (Word.YES, "yes"),
    ({Word.YES: Level.LOW}, {"yes": 1}),
    (Tag("a"), {"name": "a", "data": None}),
    (Tag("a", [b"deep", Tag("b", b"er")]), {"name": "a", "data": [b"deep", {"name": "b", "data": b"er"}]}),
    (Row(1, 2), [1, 2]),
    (Renamed(), {"type": "r", "someField": 1}),
    (Point3(1.0, dt.date(2020, 1, 2)), {"x": 1.0, "when": "2020-01-02", "inner": None}),
    (Point3(1.0, None, [memoryview(b"m")]), {"x": 1.0, "when": None, "inner": [b"m"]}),
    (dt.datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC), "2020-01-02T03:04:05Z"),
    (dt.datetime(2020, 1, 2, 3, 4, 5), "2020-01-02T03:04:05"),  # noqa: DTZ001 - the kind is the point
    (dt.date(2020, 1, 2), "2020-01-02"),
    (dt.time(3, 4), "03:04:00"),
    (dt.timedelta(days=1, seconds=2), "P1DT2S"),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (Decimal("1.50"), "1.50"),
    (
        Tag("a", {"d": dt.date(2020, 1, 2), "k": Level.LOW}),
        {"name": "a", "data": {"d": "2020-01-02", "k": 1}},
    ),
]


@pytest.mark.parametrize(("value", "wanted"), CROSSING)
def test_what_may_cross(value, wanted):
    """Each kind of value arrives as the table has it."""
    found = arrived(value)
    assert found == wanted
    assert type(found) is type(wanted)
    assert str(found) == str(wanted)  # True is no 1, and -0.0 no 0.0


def cyclic_list():
    value: list[Any] = []
    value.append({"again": value})
    return value


def cyclic_dict():
    value: dict[str, Any] = {}
    value["again"] = [value, value]
    return value


def cyclic_struct():
    value = Tag("a")
    value.data = [value]
    return value


def cyclic_dataclass():
    value = Point3(1.0)
    value.inner = (value,)
    return value


def released():
    view = memoryview(b"gone")
    view.release()
    return view


REFUSED = [
    (float("nan"), "result is nan, wanted a finite number"),
    ([float("inf")], "result[0] is inf, wanted a finite number"),
    ({"a": {"b": float("-inf")}}, "result.a.b is -inf, wanted a finite number"),
    (Fraction("nan"), "result is nan"),
    (MAX_SAFE_INTEGER + 1, "result is an integer of 54 bits, wanted at most ±(2^53-1)"),
    (-MAX_SAFE_INTEGER - 1, "result is an integer of 54 bits"),
    (10**400, "result is an integer of 1329 bits"),
    (Number(2**60), "result is an integer of 61 bits"),
    ({1: "a"}, "result is a key that is a int, wanted text"),
    ({"a": {None: 1}}, "result.a is a key that is a NoneType, wanted text"),
    ({b"a": 1}, "result is a key that is a bytes, wanted text"),
    ({True: 1}, "result is a key that is a bool, wanted text"),
    ({("a",): 1}, "result is a key that is a tuple, wanted text"),
    (set(), "result is a builtins.set, wanted what JSON can carry, or bytes"),
    ([frozenset()], "result[0] is a builtins.frozenset"),
    (object(), "result is a builtins.object"),
    (1j, "result is a builtins.complex"),
    (range(3), "result is a builtins.range"),
    (iter(()), "result is a builtins.tuple_iterator"),
    (Tag, "result is a msgspec._core.StructMeta"),
    (Point3, "result is a builtins.type"),
    (test_what_may_cross, "result is a builtins.function"),
    (Tag("a", float("nan")), "result.data is nan"),
    (Tag("a", 2**53), "result.data is an integer of 54 bits"),
    (Tag("a", {1: 2}), "result.data is a key that is a int"),
    (Tag("a", object()), "result is Encoding objects of type object is unsupported"),
    (Point3(float("inf")), "result.x is inf"),
    (cyclic_list(), "result[0].again[0]"),
    (cyclic_dict(), "deeper than 128 levels (or a cycle)"),
    (cyclic_struct(), "result is a cycle, wanted at most 128 levels"),
    (cyclic_dataclass(), "result is a cycle"),
    (released(), "result is a released memoryview"),
]


@pytest.mark.parametrize(("value", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_may_not_cross(value, message):
    """Anything else is a `UsageError` that says where it is, what it is and what was wanted."""
    with pytest.raises(UsageError) as caught:
        sent(value)
    assert str(caught.value).startswith("send: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "value", ["\ud800", ["a\udfff"], {"\ud800": 1}, Tag("\ud800"), Text("\udc00"), {"a": Text("\ud83d")}]
)
def test_lone_surrogates_are_found_when_the_message_is_written(value):
    """A text that UTF-8 cannot write is a `UsageError` of the message that it stands in."""
    outgoing = sent(value)
    with pytest.raises(UsageError, match=r"^call: a text with a lone surrogate"):
        encode({"result": outgoing.plain}, what="call")


def test_messages_about_values_are_short_and_plain():
    """A hostile key neither fills the message nor rewrites a terminal."""
    with pytest.raises(UsageError) as caught:
        sent({"a\x1b[2J\u202e": set()})
    assert str(caught.value).isprintable()
    assert str(caught.value).isascii()


def nest(inner, levels, *, kinds="ldts"):
    """`inner` in so many containers, of each kind in turn."""
    for level in range(levels):
        kind = kinds[level % len(kinds)]
        inner = {"l": [inner], "d": {"k": inner}, "t": (inner,), "s": Tag("s", inner)}[kind]
    return inner


LEAVES = [0, "a", None, b"x", dt.date(2020, 1, 1), uuid.UUID(int=1), Decimal(1), Level.LOW, Word.YES]


@pytest.mark.parametrize("leaf", LEAVES, ids=repr)
@pytest.mark.parametrize("kinds", ["l", "d", "t", "s", "ldts"])
def test_depth_128_crosses_and_129_does_not(leaf, kinds):
    """A scalar has depth 0, each container one more; values that msgspec writes as text are scalars too."""
    assert arrived(nest(leaf, MAX_DEPTH, kinds=kinds)) is not None
    with pytest.raises(UsageError):
        sent(nest(leaf, MAX_DEPTH + 1, kinds=kinds))


def test_a_container_has_a_level_even_if_it_is_empty():
    """`[]` has depth 1, as `[1]` has."""
    for empty in ([], {}, ()):
        sent(nest(empty, MAX_DEPTH - 1))
        with pytest.raises(UsageError, match=r"deeper than 128 levels"):
            sent(nest(empty, MAX_DEPTH))


def test_arguments_are_counted_each_from_itself():
    """The list of a call's arguments is no level of its own."""
    deepest = nest(1, MAX_DEPTH)
    Outgoing((deepest, "a", deepest), ("params", "args"), depth=-1)
    with pytest.raises(UsageError, match=r"params\.args\[1\]"):
        Outgoing(("a", [deepest]), ("params", "args"), depth=-1)


@pytest.mark.parametrize("levels", [MAX_DEPTH, MAX_DEPTH + 1])
@given(allowance=st.integers(0, 4), kinds=st.sampled_from(["l", "d", "ld", "lldd"]))
def test_what_was_sent_is_not_too_deep_for_the_receiver(levels, allowance, kinds):
    """The receiver's bound is the sender's, plus the levels of the envelope that it allows for."""
    text = json.dumps(nest(1, levels + allowance, kinds=kinds)).encode()
    if levels == MAX_DEPTH:
        check_depth(text, allowance=allowance)
    else:
        with pytest.raises(ProtocolError, match=r"deeper than 128 levels"):
            check_depth(text, allowance=allowance)


def test_as_many_binary_values_as_a_message_may_have():
    """1,024 cross, each at its place; one more is refused before anything is sent."""
    assert arrived([b"x"] * MAX_BYTES_ENTRIES) == [b"x"] * MAX_BYTES_ENTRIES
    with pytest.raises(UsageError, match=r"result\[1024\] is one binary value more, wanted at most 1024"):
        sent([b"x"] * (MAX_BYTES_ENTRIES + 1))


def test_binary_values_are_copies_named_by_place_and_length():
    """Each entry says where its value belongs; changing the original afterwards changes nothing."""
    original = bytearray(b"abc")
    outgoing = Outgoing([1, {"k": original}, b""], ("params", "args"), depth=-1)
    original[:] = b"xyz"
    assert outgoing.plain == [1, {"k": None}, None]
    assert outgoing.entries == [
        BytesEntry(["params", "args", 1, "k"], 3),
        BytesEntry(["params", "args", 2], 0),
    ]
    assert outgoing.attachments == [b"abc", b""]


def test_text_like_bytes_stays_text():
    """No text is ever taken for bytes, and no bytes for text."""
    assert arrived(["YWJj", b"YWJj", None]) == ["YWJj", b"YWJj", None]


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"))
    | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(PLAIN)
def test_what_crosses_comes_back_the_same(value):
    """Through real JSON and its bytes every value of the table arrives as it was, and is not changed itself."""
    before = repr(value)
    assert arrived(value) == value
    assert repr(value) == before
    assert decode_plain(encode(sent(value).plain, what="test")) == json.loads(
        encode(sent(value).plain, what="test")
    )


# --- bytes that come in


def message():
    return {"jsonrpc": "2.0", "params": {"args": [None, 1, {"a": None}], "": None}, "other": None}


@pytest.mark.parametrize(
    ("at", "read"),
    [
        (["params", "args", 0], lambda m: m["params"]["args"][0]),
        (["params", "args", 2, "a"], lambda m: m["params"]["args"][2]["a"]),
        (["params", ""], lambda m: m["params"][""]),
    ],
)
def test_bytes_come_to_their_places(at, read):
    """A place is a path of keys and indexes from the message's root, where null stands."""
    filled = message()
    put_bytes(filled, [BytesEntry(at, 1)], [b"x"])
    assert read(filled) == b"x"


def test_bytes_may_be_the_whole_result():
    """`["result"]` alone is a place."""
    whole: dict[str, Any] = {"result": None}
    put_bytes(whole, [BytesEntry(["result"], 1)], [b"x"])
    assert whole == {"result": b"x"}


HOSTILE_PLACES: list[list[str | int]] = [
    [],
    ["other"],
    ["jsonrpc"],
    [0],
    ["result"],
    ["params"],
    ["params", "args"],
    ["params", "args", 1],
    ["params", "args", 3],
    ["params", "args", -1],
    ["params", "args", "0"],
    ["params", "args", 0, 0],
    ["params", "args", 0, "a"],
    ["params", "args", 1, 0],
    ["params", "args", "append"],
    ["params", "nothing"],
    ["params", 0],
    ["params", "__class__"],
    ["__proto__", "params"],
    ["params", "args", 2**63 - 1],
]


@pytest.mark.parametrize("at", HOSTILE_PLACES, ids=repr)
def test_bytes_at_no_such_place(at):
    """A place that does not exist, holds a value, or lies outside of params and result is refused."""
    untouched = message()
    with pytest.raises(ProtocolError, match=r"^receive: bytes at"):
        put_bytes(untouched, [BytesEntry(at, 1)], [b"x"])
    assert untouched == message()


def test_bytes_at_one_place_twice():
    """A place takes one value."""
    entries = [BytesEntry(["params", ""], 1)] * 2
    with pytest.raises(ProtocolError, match=r"where a value stands already, wanted null"):
        put_bytes(message(), entries, [b"x", b"y"])


def test_bytes_inside_of_bytes():
    """What has just been put is no place for more."""
    entries = [BytesEntry(["params", ""], 1), BytesEntry(["params", "", 0], 1)]
    with pytest.raises(ProtocolError, match=r"a place that the message does not have"):
        put_bytes(message(), entries, [b"x", b"y"])


def test_a_refused_place_is_shown_cut_and_plain():
    """The path in the error is a peer's: it is cut, and cannot rewrite a terminal."""
    key = "\x1b[2J" * 1000
    with pytest.raises(ProtocolError) as caught:
        put_bytes({"params": {key: 1}}, [BytesEntry(["params", key], 1)], [b"x"])
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@given(
    st.lists(
        st.lists(st.sampled_from(["params", "result", "args", "a", "", 0, 1, 2, -1, 99]), max_size=5),
        max_size=4,
    )
)
def test_any_places_fill_nulls_or_are_refused(places):
    """Whatever a peer names, only nulls of the message change, and nothing but `ProtocolError` comes out."""
    filled = message()
    try:
        put_bytes(filled, [BytesEntry(at, 1) for at in places], [b"x"] * len(places))
    except ProtocolError:
        return
    text = json.dumps(filled, default=lambda _data: None)
    assert text == json.dumps(message())


# --- depth of what comes in


def modelled_depth(text: bytes) -> int:
    """The levels of JSON text, by the book: one character after the other."""
    depth = deepest = 0
    in_text = escaped = False
    for byte in text:
        char = chr(byte)
        if in_text:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                in_text = False
        elif char == '"':
            in_text = True
        elif char in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "]}":
            depth -= 1
    return deepest


PIECES = st.sampled_from(
    [
        '"["',
        '"]"',
        r'"\"["',
        r'"\\"',
        r'"\\\"]"',
        r'"\\\\"',
        '"{}"',
        '""',
        "1",
        r'"\u005b"',
        "[]",
        "{}",
        '"[,]"',
    ]
)


@st.composite
def documents(draw):
    """JSON with many brackets, in texts and out of them, of depths near the bound."""
    parts = [*draw(st.lists(PIECES, max_size=8)), "[" * 70 + "]" * 70, "[[]]"]
    depth = draw(st.sampled_from([0, 1, 125, 126, 127, 128, 129, 200]))
    opened, closed = "", ""
    for level in range(depth):
        if draw(st.booleans()) if level < 6 else level % 3:
            opened, closed = opened + '{"[":', "}" + closed
        else:
            opened, closed = opened + "[", "]" + closed
    inner = opened + "1" + closed
    parts.insert(draw(st.integers(0, len(parts))), inner)
    return ("[" + ",".join(parts) + "]").encode()


@given(documents())
def test_the_depth_of_json_is_what_a_simple_count_says(text):
    """Brackets in texts and behind escapes do not count, all others do."""
    json.loads(text)
    deep = modelled_depth(text) > MAX_DEPTH
    try:
        check_depth(text)
    except ProtocolError:
        assert deep
    else:
        assert not deep


@given(
    st.lists(st.sampled_from([*'[]{}"\\a,', "[" * 40, '"[",']), max_size=60).map("".join), st.integers(0, 4)
)
def test_nothing_gets_past_the_check_that_a_decoder_would_go_too_deep_for(text, allowance):
    """Whatever the text, valid or not: if some reader could be deeper than the bound in it, it is refused."""
    data = text.encode() * 4
    try:
        check_depth(data, allowance=allowance)
    except ProtocolError:
        return
    readable = data
    try:
        msgspec.json.decode(data)
    except msgspec.DecodeError as error:  # what stands before the fault was gone into
        position = str(error).rpartition("(byte ")[2].rstrip(")")
        readable = data[: int(position)] if position.isdigit() else data
    assert modelled_depth(readable) <= MAX_DEPTH + allowance


MANY = 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        b"[" * MANY,
        b"[{" * MANY,
        b"[" * MANY + b"]" * MANY,
        b"[" + b",".join([b"[" * 127 + b"]" * 127] * (MANY // 255)) + b"]",
        (b"[" * 100 + b"]" * 99) * (MANY // 199),
        b"[]" * 200 + b'"' + b"[" * MANY,
        b"[" + b'"",' * (MANY // 3) + b"[]" * 200,
        b"[" + b'"[",[],' * (MANY // 7) + b"[]" * 200,
        b'["' + b"\\\\" * MANY + b'"' + b",[]" * 200,
    ],
    ids=["open", "open objects", "one tower", "many towers", "saw", "open text", "texts", "mixed", "escapes"],
)
def test_no_text_keeps_the_check_busy(text):
    """The work grows with the text, not with text times depth: a hostile frame costs what another one does."""
    started = time.process_time()
    for _ in range(3):
        try:
            check_depth(text)
        except ProtocolError:
            continue
    plain = time.process_time()
    for _ in range(3):
        sum(text)  # a pass over the text in C, with a Python object a byte
    assert plain - started < 20 * (time.process_time() - plain) + 0.5
