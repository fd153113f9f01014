"""Values of the wire: what is JSON to us is so to Python, of a bounded depth, and crosses back unchanged."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from coredeno.errors import ProtocolError, UsageError
from coredeno.wire.codec import MAX_ENVELOPE_DEPTH, decode_batch, decode_plain
from coredeno.wire.typed import decoder_for
from coredeno.wire.values import MAX_DEPTH, Outgoing, encode
from tests.fuzz.shape import require, require_equal, value_of

LIMIT_ATTACHMENTS = 64 * 1024


class Row(msgspec.Struct):
    """A type with a bit of everything."""

    name: str = ""
    size: int = 0
    data: bytes | None = None
    rows: list[Any] = []


def _batch(**members: object) -> bytes:
    return msgspec.json.encode([{"jsonrpc": "2.0", "id": 1, "method": "m", **members}])


SEEDS = [
    b"[" * (MAX_DEPTH + MAX_ENVELOPE_DEPTH + 1) + b"]" * (MAX_DEPTH + MAX_ENVELOPE_DEPTH + 1),
    b'{"a":' * 200 + b"1" + b"}" * 200,
    b'{"a": [1, -2.5e3, "\\u00e9\\ud83d\\ude00", null, true, {"b": {}}], "a": 2}',
    b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
    b'[9007199254740991, 1e308, -0.0, "\\\\\\"[{"]',
    _batch(params={"name": "x", "data": None, "rows": [None]}, bytes=[{"at": ["params", "data"], "len": 5}]),
    _batch(
        params=[None, {"a": None}], bytes=[{"at": ["params", 1, "a"], "len": 0}], module="m", deadline_ms=1.5
    ),
]


def target(data: bytes) -> None:
    _as_value(data)
    for message in value_of(lambda: decode_batch(data), ProtocolError) or ():
        entries = message.bytes or []
        if sum(entry.len for entry in entries) > LIMIT_ATTACHMENTS:
            continue
        attachments = [bytes([place % 251]) * entry.len for place, entry in enumerate(entries)]
        for wanted in (Any, Row, dict[str, bytes], list[int]):
            try:
                decoder_for(wanted).decode(message.params, entries, attachments, "params")
            except (msgspec.ValidationError, ProtocolError):
                continue
        bytes(message.params).decode()  # a member that is not looked into yet
        _as_value(bytes(message.params))


def _as_value(data: bytes) -> None:
    try:
        value = decode_plain(data)
    except ProtocolError:
        return
    peer = json.loads(data.decode())  # decode_plain took it, so this may not fail
    require_equal(repr(value), repr(peer), "Python's json reads another value")
    require(_depth(value) <= MAX_DEPTH + MAX_ENVELOPE_DEPTH, "deeper than the bound")
    try:
        outgoing = Outgoing(value, ("result",))
    except UsageError:  # an integer that JavaScript cannot count, or too deep without an envelope
        return
    require(not outgoing.entries, "JSON has no binary values")
    require_equal(
        repr(decode_plain(encode(outgoing.plain, what="value"))), repr(value), "crosses back unchanged"
    )


def _depth(value: Any) -> int:
    deepest, todo = 0, [(value, 0)]
    while todo:
        item, depth = todo.pop()
        deepest = max(deepest, depth)
        if isinstance(item, dict | list):
            todo.extend((inner, depth + 1) for inner in (item.values() if isinstance(item, dict) else item))
            deepest = max(deepest, depth + 1)
    return deepest
