"""Frames and batches: whatever the bytes, there are messages or `ProtocolError`."""

from __future__ import annotations

import contextlib
import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coredeno.errors import ProtocolError
from coredeno.wire.codec import (
    FrameReader,
    Request,
    check_entries,
    decode_batch,
    decode_plain,
    encode_batch,
)
from coredeno.wire.values import MAX_BYTES_ENTRIES, BytesEntry, encode

LIMIT = 2000


def line(attachments=(), **members) -> bytes:
    """A frame as a sidecar sends it."""
    if attachments:
        members["bytes"] = [{"at": ["result", i], "len": len(data)} for i, data in enumerate(attachments)]
        members.setdefault("result", [None] * len(attachments))
    return msgspec.json.encode({"jsonrpc": "2.0", **members}) + b"\n" + b"".join(attachments)


def frames(*chunks, limit_bytes=LIMIT):
    """What a reader makes of chunks: its frames, and whether it refused to go on."""
    reader = FrameReader(limit_bytes=limit_bytes)
    found = []
    try:
        for chunk in chunks:
            for frame in reader.feed(chunk):
                found += [(frame.text, bytes(frame.answer.result), frame.attachments)]
    except ProtocolError:
        found.append("refused")
    return found


def cut(data: bytes, places) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


NASTY = st.sampled_from(
    [
        b"\n",
        b"{}",
        b"null\n",
        b'{"jsonrpc":"1.0","id":1,"result":1}\n',
        b'{"jsonrpc":"2.0","id":1.5}\n',
        b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * 140 + b"\n",
        b'{"jsonrpc":"2.0","id":1,"result":"\xff"}\n',
        b'{"jsonrpc":"2.0","method":"a","params":{"\xff":1}}\n',
        b'{"jsonrpc":"2.0","id":1,"result":null,"bytes":[{"at":["result"],"len":-1}]}\n',
        b'{"jsonrpc":"2.0","id":1,"result":null,"bytes":[{"at":["result"],"len":9223372036854775807}]}\n',
        b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b"}\n",
        b'{"jsonrpc":"2.0","id":1,"error":{"code":1}}\n',
        b'{"jsonrpc":"2.0","id":1,"error":"no"}\n',
    ]
)
FRAME = st.builds(
    lambda number, text, attachments: line(
        attachments, id=number, **({} if attachments else {"result": text})
    ),
    st.integers(-(2**63), 2**63 - 1),
    st.text(st.characters(codec="utf-8"), max_size=10),
    st.lists(st.binary(max_size=20) | st.just(b"\n\n"), max_size=3),
)
STREAM = st.lists(FRAME | FRAME | NASTY | st.binary(max_size=30), max_size=6).map(b"".join)
PLACES = st.lists(st.integers(0, 10_000), max_size=8)


@given(STREAM, PLACES)
def test_any_bytes_give_frames_or_the_declared_error_however_they_are_cut(data, places):
    """Byte by byte, in pieces or at once: the same frames and the same refusal, and never another error."""
    at_once = frames(data)
    assert frames(*cut(data, places)) == at_once
    assert frames(*(bytes([byte]) for byte in data)) == at_once


@given(st.binary(max_size=200))
def test_any_bytes_give_a_batch_or_the_declared_error(data):
    """Nothing that a peer can write makes the decoder of batches raise anything else."""
    for decode in (decode_batch, decode_plain):
        with contextlib.suppress(ProtocolError):
            decode(data)


def test_frames_follow_each_other_with_their_bytes():
    """Raw bytes follow their line in the order of its entries; newlines in them end nothing."""
    data = line(id=1, result="a") + line([b"\n{}\n", b"", b"xyz"], id=2) + line(id=3, result=None)
    assert [found[1:] for found in frames(data)] == [
        (b'"a"', []),
        (b"[null,null,null]", [b"\n{}\n", b"", b"xyz"]),
        (b"null", []),
    ]


@pytest.mark.parametrize(
    ("members", "of_answer"),
    [
        ({"id": 1, "result": 5}, (1, None, b"5", b"", None)),
        ({"method": "ModuleExited", "params": {"a": 1}}, (None, "ModuleExited", b"", b'{"a":1}', None)),
        ({"id": 1, "error": {"code": -1, "message": "m"}}, (1, None, b"", b"", (-1, "m", None))),
        (
            {"id": 1, "error": {"code": -1, "message": "m", "data": {"k": [1]}}, "unknown": 1},
            (1, None, b"", b"", (-1, "m", {"k": [1]})),
        ),
    ],
)
def test_answers_and_notifications(members, of_answer):
    """An answer has an id and a result or error, a notification a method; unknown members are passed over."""
    (frame,) = FrameReader(limit_bytes=LIMIT).feed(line(**members))
    answer = frame.answer
    error = answer.error and (answer.error.code, answer.error.message, answer.error.data)
    assert (answer.id, answer.method, bytes(answer.result), bytes(answer.params), error) == of_answer


def message_of(size: int) -> bytes:
    """A line of exactly this size, without its newline."""
    empty = len(line(id=1, result="")) - 1
    return line(id=1, result="x" * (size - empty))


def test_the_limit_is_met_exactly():
    """A line of the limit passes, one byte more is refused, before and after its newline has come."""
    whole = message_of(LIMIT)
    assert len(whole) == LIMIT + 1
    assert len(frames(whole)) == 1
    assert frames(message_of(LIMIT + 1)) == ["refused"]
    assert frames(b" " * LIMIT) == []
    assert frames(b" " * (LIMIT + 1)) == ["refused"]
    assert frames(whole, b" " * LIMIT, b" ")[-1] == "refused"


def test_the_limit_counts_the_bytes_of_a_message():
    """A line and its bytes are one message; the refusal comes with the line, before the bytes."""
    head = line([b"x" * 500], id=1).partition(b"\n")[0]
    fits = line([b"x" * 500], id=1)
    assert len(frames(fits, limit_bytes=len(head) + 500)) == 1
    assert frames(head + b"\n", limit_bytes=len(head) + 499) == ["refused"]


def test_a_refused_size_is_named():
    """The error says what the limit is."""
    with pytest.raises(ProtocolError, match=r"^receive: message over 10 bytes$"):
        list(FrameReader(limit_bytes=10).feed(b"x" * 11))


class Counted(bytearray):
    """Counts the bytes that searches looked through."""

    looked = 0

    def find(self, wanted, start=0):
        found = super().find(wanted, start)
        Counted.looked += (len(self) if found < 0 else found + 1) - start
        return found

    def __iadd__(self, other):
        self.extend(other)
        return self


@pytest.mark.parametrize("before", [b"", line(id=1, result=1), line([b"12345"], id=1)])
def test_a_slow_line_is_not_searched_again(before):
    """Each byte is searched once for a newline, in however many pieces it comes."""
    reader = FrameReader(limit_bytes=100_000)
    reader._data = Counted()
    Counted.looked = 0
    slow = line(id=2, result="x" * 20_000)
    count = len(list(reader.feed(before)))
    for byte in slow:
        count += len(list(reader.feed(bytes([byte]))))
    assert count == (2 if before else 1)
    assert Counted.looked <= len(before) + len(slow)


def test_slow_bytes_are_not_searched_at_all():
    """While a message waits for its raw bytes nothing is looked for in them."""
    reader = FrameReader(limit_bytes=100_000)
    reader._data = Counted()
    head, _, raw = line([b"\n" * 20_000], id=1).partition(b"\n")
    list(reader.feed(head + b"\n"))
    Counted.looked = 0
    found = [frame for byte in raw for frame in reader.feed(bytes([byte]))]
    assert [len(frame.attachments[0]) for frame in found] == [20_000]
    assert Counted.looked <= 1


def test_a_reader_keeps_nothing_that_it_has_given():
    """After whole frames the buffer is empty, so a long connection does not grow."""
    reader = FrameReader(limit_bytes=LIMIT)
    for _ in range(3):
        assert len(list(reader.feed(line([b"123"], id=1) * 5 + b"{"))) == 5
        assert bytes(reader._data) == b"{"
        assert frames(bytes(reader._data)) == []
        reader._data.clear()
        reader._searched = 0


@pytest.mark.parametrize(
    ("entries", "total"),
    [([], 0), ([0, 5, 7], 12), ([1] * MAX_BYTES_ENTRIES, MAX_BYTES_ENTRIES)],
)
def test_entries_that_can_be(entries, total):
    """The sum of the lengths says how many bytes follow."""
    assert check_entries([BytesEntry(["result", i], size) for i, size in enumerate(entries)]) == total


@pytest.mark.parametrize(
    "entries",
    [
        [BytesEntry(["result"], -1)],
        [BytesEntry(["result"], 5), BytesEntry(["result"], -5)],
        [BytesEntry(["result"], 0)] * (MAX_BYTES_ENTRIES + 1),
        [BytesEntry(["result"] * 133, 0)],
    ],
)
def test_entries_that_cannot_be(entries):
    """A negative length, more than 1,024 entries, or a place deeper than any message."""
    with pytest.raises(ProtocolError):
        check_entries(entries)
    text = msgspec.json.encode([{"jsonrpc": "2.0", "method": "m", "id": 1, "bytes": entries}])
    with pytest.raises(ProtocolError):
        decode_batch(text)


def test_a_batch_has_requests_with_what_they_say():
    """Each member of a request is read; those that are left out are None."""
    text = (
        b'[{"jsonrpc":"2.0","id":7,"method":"store.get","params":{"key":"a"},"module":"m","deadline_ms":1.5,'
        b'"trace":"t","bytes":[{"at":["params",0],"len":1}]},{"jsonrpc":"2.0","method":"cancel"}]'
    )
    full, bare = decode_batch(text)
    assert (full.id, full.method, full.module, full.deadline_ms, full.trace) == (
        7,
        "store.get",
        "m",
        1.5,
        "t",
    )
    assert (bytes(full.params), full.bytes) == (b'{"key":"a"}', [BytesEntry(["params", 0], 1)])
    assert (bytes(bare.params), bare.id, bare.module, bare.deadline_ms, bare.trace, bare.bytes) == (
        b"{}",
        None,
        None,
        None,
        None,
        None,
    )


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[1]",
        b"[{}]",
        b'[{"method":"m"}]',
        b'[{"jsonrpc":"1.0","method":"m"}]',
        b'[{"jsonrpc":"2.0"}]',
        b'[{"jsonrpc":"2.0","method":1}]',
        b'[{"jsonrpc":"2.0","method":"m","id":"1"}]',
        b'[{"jsonrpc":"2.0","method":"m","module":1}]',
        b'[{"jsonrpc":"2.0","method":"m","deadline_ms":"1"}]',
        b'[{"jsonrpc":"2.0","method":"m","deadline_ms":1e999}]',
        b'[{"jsonrpc":"2.0","method":"m","bytes":[{"at":["params"]}]}]',
        b'[{"jsonrpc":"2.0","method":"m","bytes":[{"at":["params",true],"len":0}]}]',
        b'[{"jsonrpc":"2.0","method":"m","bytes":[{"at":["params",1.5],"len":0}]}]',
        b'[{"jsonrpc":"2.0","method":"m","bytes":[{"at":"params","len":0}]}]',
        b'[{"jsonrpc":"2.0","method":"m","params":' + b"[" * 132 + b"]" * 132 + b"}]",
        b'[{"jsonrpc":"2.0","method":"m","params":"\xff"}]',
        b'[{"jsonrpc":"2.0","method":"m","params":{"\xff":1}}]',
        b'[{"jsonrpc":"2.0","method":"\xff"}]',
        b'\xef\xbb\xbf[{"jsonrpc":"2.0","method":"m"}]',
        b'[{"jsonrpc":"2.0","method":"m"}]x',
    ],
)
def test_batches_that_are_none(text):
    """What is no array of well-formed messages is refused, also where msgspec would leave a member raw."""
    with pytest.raises(ProtocolError, match=r"^receive: "):
        decode_batch(text)


def test_a_batch_of_several_messages_is_not_large():
    """Only a message that is alone in its batch may be, and then all that is checked of a small one is."""
    half = msgspec.json.encode({"jsonrpc": "2.0", "method": "m", "params": "x" * 409_500})
    assert len(decode_batch(encode_batch([half, half]))) == 2
    lone = msgspec.json.encode({"jsonrpc": "2.0", "method": "m", "params": "x" * 819_200})
    (message,) = decode_batch(encode_batch([lone]))
    assert len(message.params) == 819_202
    small = b'{"jsonrpc":"2.0","method":"m"}'
    for wrong in (
        encode_batch([lone, small]),
        encode_batch([small] * 40_000),
        encode_batch([lone])[:-1],
        encode_batch([lone.replace(b"xxx", b"x\xffx", 1)]),
        encode_batch([lone.replace(b'"xx', b"[" * 133 + b'"xx', 1).replace(b'x"', b'x"' + b"]" * 133, 1)]),
        b"[" + b" " * 900_000 + b"]",
    ):
        with pytest.raises(ProtocolError, match=r"^receive: "):
            decode_batch(wrong)


@pytest.mark.parametrize(
    ("text", "value"),
    [(b"null", None), (b'{"a":[1,2.5,"x",true]}', {"a": [1, 2.5, "x", True]}), (b' "\xc3\xa9" ', "é")],
)
def test_plain_values(text, value):
    """JSON becomes what Python has for it."""
    assert decode_plain(text) == value
    assert decode_plain(msgspec.Raw(text)) == value


@given(st.lists(st.integers(0, 2**53 - 1), max_size=5))
def test_a_batch_that_was_joined_is_read_again(ids):
    """Joining encoded messages gives an array of them, in order."""
    messages = [encode(Request("m", {}, number), what="m") for number in ids]
    assert [message.id for message in decode_batch(encode_batch(messages))] == ids


def test_a_request_leaves_out_what_it_has_not():
    """A notification has no id, and a message without binary values no `bytes`."""
    assert msgspec.json.decode(encode(Request("m", [1]), what="m")) == {
        "jsonrpc": "2.0",
        "method": "m",
        "params": [1],
    }
    full = Request("m", None, 3, [BytesEntry(["params"], 2)])
    assert msgspec.json.decode(encode(full, what="m")) == {
        "jsonrpc": "2.0",
        "method": "m",
        "params": None,
        "id": 3,
        "bytes": [{"at": ["params"], "len": 2}],
    }
