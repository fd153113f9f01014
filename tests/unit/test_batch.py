"""The Session's message by hand: on the wire the same as the class that betterproto2 generates."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coredeno.errors import ProtocolError
from coredeno.gateway._generated.coredeno import Batch as GeneratedBatch
from coredeno.gateway.batch import Batch


def read(data: bytes):
    batch = Batch.FromString(data)
    return batch.messages, list(batch.attachments)


def generated(data: bytes):
    batch = GeneratedBatch.FromString(data)
    return batch.messages, list(batch.attachments)


def varint(value: int, *, padding: int = 0) -> bytes:
    out = bytearray()
    while value > 0x7F or padding > len(out):
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, kind: int, payload: bytes) -> bytes:
    head = varint(number << 3 | kind)
    return head + (varint(len(payload)) if kind == 2 else b"") + payload


SIZES = st.sampled_from([0, 1, 127, 128, 129, 16_383, 16_384, 16_385])
DATA = st.binary(max_size=40) | SIZES.map(lambda size: b"x" * size)


@given(DATA, st.lists(DATA, max_size=6))
def test_both_classes_write_the_same_bytes(messages, attachments):
    """Each reads what the other writes, and gets the same."""
    ours = Batch(messages, attachments).SerializeToString()
    theirs = GeneratedBatch(messages=messages, attachments=attachments).SerializeToString()
    assert generated(ours) == read(theirs) == (messages, attachments)
    if messages:  # protobuf may leave out what is empty; we never do
        assert ours == theirs


def test_large_values():
    """Lengths of several bytes are written as protobuf wants them."""
    batch = Batch(b"m" * 3_000_000, [b"a" * 70_000, b""])
    data = batch.SerializeToString()
    assert data[:5] == b"\x0a" + varint(3_000_000)
    assert generated(data) == read(data) == (batch.messages, batch.attachments)


UNKNOWN = st.one_of(
    st.builds(field, st.integers(3, 2**29 - 1), st.just(2), st.binary(max_size=9)),
    st.builds(field, st.integers(3, 2**29 - 1), st.just(1), st.binary(min_size=8, max_size=8)),
    st.builds(field, st.integers(3, 2**29 - 1), st.just(5), st.binary(min_size=4, max_size=4)),
    st.builds(field, st.integers(3, 2**29 - 1), st.just(0), st.integers(0, 2**64 - 1).map(varint)),
)
KNOWN = st.builds(field, st.sampled_from([1, 2]), st.just(2), st.binary(max_size=200))


@given(st.lists(KNOWN | UNKNOWN, max_size=8).map(b"".join))
def test_any_message_is_read_alike(data):
    """In any order, with fields of later versions between, both classes read the same."""
    assert read(data) == generated(data)


@pytest.mark.parametrize(
    ("data", "batch"),
    [
        (b"", (b"", [])),
        (b"\x0a\x00", (b"", [])),
        (b"\x0a\x01a\x0a\x01b", (b"b", [])),
        (b"\x12\x01a\x0a\x01m\x12\x00", (b"m", [b"a", b""])),
        (varint(0x0A, padding=3) + varint(1, padding=9) + b"m", (b"m", [])),
        (b"\x08\x05\x0a\x01m", (b"m", [])),
        (b"\x0d1234\x11" + b"12345678" + b"\x0a\x01m", (b"m", [])),
    ],
    ids=[
        "empty",
        "empty text",
        "the last counts",
        "any order",
        "padded numbers",
        "other kind",
        "other kinds",
    ],
)
def test_odd_but_sound(data, batch):
    """What protobuf allows is read, as protobuf wants it."""
    assert read(data) == batch


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",
        b"\x0a\x02a",
        b"\x0a\xff",
        b"\x0a" + b"\xff" * 9,
        b"\x0a" + b"\xff" * 10,
        b"\x0a" + b"\x80" * 10 + b"\x01",
        b"\xff" * 11,
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7fa",
        b"\x0b",
        b"\x0c",
        b"\x0e",
        b"\x0f",
        b"\x09" + b"1234567",
        b"\x0d" + b"123",
        b"\x08",
        b"\x08\x80",
        b"\x12\x05abcd",
    ],
)
def test_what_is_no_batch(data):
    """Bytes that are cut off, numbers that do not end and kinds that do not exist are refused."""
    with pytest.raises(ProtocolError, match=r"^receive: a batch "):
        Batch.FromString(data)


@given(st.binary(max_size=60) | st.lists(KNOWN | UNKNOWN | st.binary(max_size=5), max_size=6).map(b"".join))
def test_any_bytes_give_a_batch_or_the_declared_error(data):
    """Nothing else comes out, and what is read lies within what came."""
    with contextlib.suppress(ProtocolError):
        messages, attachments = read(data)
        assert len(messages) + sum(map(len, attachments)) <= len(data)


@pytest.mark.parametrize("field_of_nothing", [b"\x12\x00", b"\x0a\x00", b"\x18\x00", b"\x1a\x00"])
def test_a_batch_has_a_bounded_number_of_fields(field_of_nothing):
    """Millions of empty fields would keep the loop busy for seconds: at most 8,192 are looked at."""
    read(field_of_nothing * 8_192)
    with pytest.raises(ProtocolError, match="more than 8192 fields"):
        Batch.FromString(field_of_nothing * 65_537)
