"""Frames of the JSON-RPC wire: however they are cut, the same frames and the same end; never more than the limit."""

from __future__ import annotations

import msgspec

from coredeno.errors import ProtocolError
from coredeno.wire.codec import FrameReader
from tests.fuzz.shape import cuts, require, require_equal, single_bytes

LIMIT = 1000


def _line(**members: object) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", **members}) + b"\n"


_BYTES = _line(
    id=4, result=[None, None], bytes=[{"at": ["result", 0], "len": 3}, {"at": ["result", 1], "len": 0}]
)
SEEDS = [
    b"\x3c" + _line(id=1, result="long enough") + _line(id=2, result=0) + _line(id=3, result="\u00e9"),
    b"\x60" + _line(id=1, result="long enough") + _line(id=2, result=0) * 3,
    b"\x00" + _line(id=1, result={"a": [1, 2.5, "é", None, True]}),
    b"\x05"
    + _line(method="moduleExited", params={"code": "tagger"})
    + _line(id=2, error={"code": -1, "message": "m"}),
    b"\x02" + _BYTES + b"abc" + _line(id=5, result=1),
    b"\xff" + _line(id=3, result="x" * (LIMIT - 40)),
]


def target(data: bytes) -> None:
    pattern, stream = data[:1], data[1:]
    at_once = _read([stream])
    require_equal(_read(single_bytes(stream)), at_once, "byte by byte")
    require_equal(_read(list(cuts(stream, pattern))), at_once, f"in pieces of {pattern!r}")


def _read(pieces: list[bytes]) -> tuple[list[tuple[bytes, list[bytes]]], bool]:
    reader = FrameReader(limit_bytes=LIMIT)
    frames: list[tuple[bytes, list[bytes]]] = []
    largest = max(map(len, pieces), default=0)
    try:
        for piece in pieces:
            for frame in reader.feed(piece):
                size = len(frame.text) + sum(map(len, frame.attachments))
                frame.text.decode()  # also in the members that are not looked into yet
                require(size <= LIMIT, "a frame is no larger than the limit")
                frames.append((frame.text, frame.attachments))
            held = len(reader._data)
            require(held <= 2 * LIMIT + largest, f"holds {held:,} bytes: one message and one read")
    except ProtocolError:
        return frames, True
    return frames, False
