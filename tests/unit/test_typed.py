"""Decoding into the type that somebody wants: with and without binary values, the same rules."""

from __future__ import annotations

import datetime as dt
import enum
import typing
import uuid
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coredeno.errors import InvalidArgument, ProtocolError, UsageError
from coredeno.wire.typed import TypedDecoder, decoder_for
from coredeno.wire.values import BytesEntry


class Point(msgspec.Struct):
    x: int
    y: int = 0


class Photo(msgspec.Struct):
    name: str
    data: bytes
    thumb: bytearray | None = None


class Node(msgspec.Struct):
    children: list[Node] = []
    data: bytes | None = None


class Checked(msgspec.Struct):
    path: str

    def __post_init__(self):
        if ".." in self.path:
            raise InvalidArgument("path: it has ..")


class Size(enum.IntEnum):
    S = 1


class Pair(NamedTuple):
    a: int
    b: bytes


class Options(TypedDict, total=False):
    level: int


class Alien:
    """What msgspec knows nothing of."""


def decoded(wanted, text, places=(), attachments=()):
    entries = [BytesEntry(at, len(data)) for at, data in zip(places, attachments, strict=True)]
    return decoder_for(wanted).decode(text, entries or None, attachments, "result")


TYPES = [
    (Any, b'{"a":[1,2.5,null]}', {"a": [1, 2.5, None]}),
    (None, b"null", None),
    (int, b"5", 5),
    (float, b"5", 5.0),
    (str | None, b"null", None),
    (list[int], b"[1,2]", [1, 2]),
    (tuple[int, str], b'[1,"a"]', (1, "a")),
    (set[int], b"[1,1]", {1}),
    (frozenset[str], b'["a"]', frozenset({"a"})),
    (dict[str, Point], b'{"a":{"x":1}}', {"a": Point(1)}),
    (dict[int, str], b'{"1":"a"}', {1: "a"}),
    (dict[float, int], b'{"1.5":1}', {1.5: 1}),
    (dict[Size, int], b'{"1":2}', {Size.S: 2}),
    (dict[uuid.UUID, int], b'{"00000000-0000-0000-0000-000000000001":1}', {uuid.UUID(int=1): 1}),
    (dict[dt.date, int], b'{"2020-01-02":1}', {dt.date(2020, 1, 2): 1}),
    (dt.datetime, b'"2020-01-02T00:00:00Z"', dt.datetime(2020, 1, 2, tzinfo=dt.UTC)),
    (dt.timedelta, b'"PT5S"', dt.timedelta(seconds=5)),
    (uuid.UUID, b'"00000000-0000-0000-0000-000000000001"', uuid.UUID(int=1)),
    (Decimal, b'"1.50"', Decimal("1.50")),
    (Decimal, b"1.5", Decimal("1.5")),
    (Size, b"1", Size.S),
    (Literal["a", 1], b"1", 1),
    (Annotated[int, msgspec.Meta(ge=1)], b"1", 1),
    (Options, b'{"level":1}', {"level": 1}),
    (Node, b'{"children":[{}]}', Node([Node()])),
]


@pytest.mark.parametrize(("wanted", "text", "value"), TYPES)
def test_each_type_is_read_alike_with_and_without_binary_values(wanted, text, value):
    """The same JSON gives the same value, whether it is decoded in one step or by way of plain values."""
    assert decoded(wanted, text) == value
    assert type(decoded(wanted, text)) is type(value)
    beside = decoded(tuple[wanted, bytes], b"[" + text + b",null]", [["result", 1]], [b"x"])
    assert beside == (value, b"x")
    assert type(beside[0]) is type(value)


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (int, b"1.5"),
        (int, b'"1"'),
        (int, b"true"),
        (bool, b"1"),
        (str, b"1"),
        (str, b"null"),
        (list[int], b'[1,"2"]'),
        (dict[int, int], b'{"a":1}'),
        (Point, b"{}"),
        (Point, b'{"x":"1"}'),
        (dt.datetime, b"5"),
        (Size, b"2"),
        (Literal["a"], b'"b"'),
        (Annotated[int, msgspec.Meta(ge=1)], b"0"),
        (bytes, b'"YWJj"'),
        (bytearray, b'"YWJj"'),
        (memoryview, b'"YWJj"'),
        (Photo, b'{"name":"a","data":"YWJj"}'),
        (bytes, b"null"),
        (bytes, b"[1]"),
    ],
)
def test_values_of_another_type_are_refused_alike(wanted, text):
    """What is not of the type is a `ValidationError` either way; text never counts as bytes."""
    with pytest.raises(msgspec.ValidationError):
        decoded(wanted, text)
    with pytest.raises(msgspec.ValidationError):
        decoded(tuple[wanted, bytes], b"[" + text + b",null]", [["result", 1]], [b"x"])


@pytest.mark.parametrize(
    ("wanted", "text", "places", "value"),
    [
        (bytes, b"null", [["result"]], b"0"),
        (bytearray, b"null", [["result"]], bytearray(b"0")),
        (bytes | None, b"null", [["result"]], b"0"),
        (Any, b"[null]", [["result", 0]], [b"0"]),
        (list, b"[null,1]", [["result", 0]], [b"0", 1]),
        (list[bytes], b"[null,null]", [["result", 1], ["result", 0]], [b"1", b"0"]),
        (dict[int, bytes], b'{"7":null}', [["result", "7"]], {7: b"0"}),
        (Photo, b'{"name":"a","data":null}', [["result", "data"]], Photo("a", b"0")),
        (
            Photo,
            b'{"name":"a","data":null,"thumb":null}',
            [["result", "data"], ["result", "thumb"]],
            Photo("a", b"0", bytearray(b"1")),
        ),
        (
            Node,
            b'{"children":[{"data":null}]}',
            [["result", "children", 0, "data"]],
            Node([Node(data=b"0")]),
        ),
        (Pair, b"[1,null]", [["result", 1]], Pair(1, b"0")),
    ],
)
def test_binary_values_come_to_their_places(wanted, text, places, value):
    """They fill the nulls that the entries name, whatever the order of the entries."""
    attachments = [str(number).encode() for number in range(len(places))]
    assert decoded(wanted, text, places, attachments) == value


def test_a_memoryview_is_given_where_one_is_wanted():
    """Each of Python's types for bytes can be asked for."""
    found = decoded(memoryview, b"null", [["result"]], [b"abc"])
    assert type(found) is memoryview
    assert bytes(found) == b"abc"


def test_bytes_where_none_are_wanted():
    """A binary value in the place of another type is refused as any other value would be."""
    with pytest.raises(msgspec.ValidationError):
        decoded(list[str], b"[null]", [["result", 0]], [b"abc"])


@pytest.mark.parametrize("wanted", [Any, str | list[Any], bytes, Photo, msgspec.Raw])
@pytest.mark.parametrize("text", [b"", b"nul", b"[1", b"\xff", b'"\xff"', b"[" * 5000, b'["\xff"]', b"[] 2"])
def test_what_is_no_json_is_a_protocol_error(wanted, text):
    """The peer wrote it, so the peer broke the rules: nothing of msgspec's own comes out."""
    if wanted is msgspec.Raw:
        wanted = dict[str, msgspec.Raw]
        text = b'{"a":' + text
    with pytest.raises(ProtocolError):
        decoded(wanted, text)


@given(st.binary(max_size=50))
def test_any_bytes_give_a_value_or_a_declared_error(text):
    """Whatever comes, there is a value, a `ValidationError` or a `ProtocolError`."""
    for wanted in (Any, list[Point], Photo, dict[int, bytes]):
        try:
            decoded(wanted, text)
        except (msgspec.ValidationError, ProtocolError):
            continue


def test_an_error_of_the_type_itself_comes_through():
    """A check of ours in a type raises what it raises, with and without binary values."""
    with pytest.raises(InvalidArgument):
        decoded(Checked, b'{"path":".."}')
    with pytest.raises(InvalidArgument):
        decoded(tuple[Checked, bytes], b'[{"path":".."},null]', [["result", 1]], [b"x"])


@pytest.mark.parametrize(
    "wanted",
    [
        Alien,
        list[Alien],
        dict[str, tuple[Alien, ...]],
        Alien | None,
        typing.Union[int, Alien],  # noqa: UP007 - this spelling too
        complex,
        bytes | str,
        int | Size,
        "Alien",
        list["NoSuchName"],  # noqa: F821 - that is the point
        5,
    ],
    ids=repr,
)
def test_types_that_cannot_be_decoded_into(wanted):
    """A type that msgspec knows nothing of is refused when it is named, not when a value comes."""
    with pytest.raises(UsageError, match=r"^decode into "):
        decoder_for(wanted)


def test_one_decoder_a_type():
    """A decoder is built once for a type, and anew for one that cannot be hashed."""
    assert decoder_for(list[int]) is decoder_for(list[int])
    unhashable = Annotated[int, ["no hash"]]
    assert decoder_for(unhashable).decode(b"1", None, (), "result") == 1


def test_convert_takes_real_bytes():
    """Plain values with bytes among them are given the wanted type."""
    assert TypedDecoder(Photo).convert({"name": "a", "data": b"x"}) == Photo("a", b"x")
    with pytest.raises(msgspec.ValidationError, match=r"\$\.data"):
        TypedDecoder(Photo).convert({"name": "a", "data": "eA=="})
