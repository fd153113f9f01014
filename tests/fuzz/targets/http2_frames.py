"""HTTP/2 frames: what is too long is found by its head, however the bytes are cut, and each slice goes on and ends."""

from __future__ import annotations

from coredeno.errors import ProtocolError
from coredeno.gateway.frame_guard import FrameGuard
from tests.fuzz.shape import cuts, require, require_equal, single_bytes

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LONGEST = 16_384  # RFC 9113, section 4.2
LONGEST_BLOCK = 32_768
HEADERS, CONTINUATION, END_HEADERS = 1, 9, 4


def frame(kind: int, payload: bytes, *, flags: int = 0, stream: int = 0, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


SEEDS = [
    b"\x00"
    + PREFACE
    + frame(4, b"")
    + frame(HEADERS, b"\x82\x86\x84", flags=END_HEADERS, stream=1)
    + frame(0, b"abc", stream=1),
    b"\x08" + PREFACE + frame(4, b"\x00\x03\x00\x00\x00\x64") + frame(6, bytes(8)) * 3 + frame(8, bytes(4)),
    b"\x03" + PREFACE + frame(HEADERS, b"x" * 99, stream=1) + frame(CONTINUATION, b"y" * 99, stream=1) * 3,
    b"\x03" + PREFACE + frame(3, bytes(4), stream=1) * 4 + frame(0, b"", length=LONGEST + 1),
    b"\x03" + PREFACE + frame(0, b"x" * 100, length=LONGEST),
]


def target(data: bytes) -> None:
    # An input is far too short for the bounds of rates, so lengths alone decide.
    pattern, stream = data[:1], data[1:]
    wanted = _are_allowed(stream)
    require_equal(_ask([stream]), wanted, "all at once")
    require_equal(_ask(single_bytes(stream)), wanted, "byte by byte")
    require_equal(_ask(list(cuts(stream, pattern))), wanted, f"in pieces of {pattern!r}")


def _ask(pieces: list[bytes]) -> bool:
    guard = FrameGuard(0.0)
    try:
        for piece in pieces:
            position = 0
            while position < len(piece):
                end = guard.cut(piece, position, 0.0)
                require(position < end <= len(piece), "a slice goes on, and not beyond the end")
                position = end
    except ProtocolError:
        return False
    return True


def _are_allowed(stream: bytes) -> bool:
    """By the RFC, from the whole."""
    at, block = len(PREFACE), 0
    while at + 9 <= len(stream):
        size, kind, flags = int.from_bytes(stream[at : at + 3], "big"), stream[at + 3], stream[at + 4]
        if kind in (HEADERS, CONTINUATION):
            block = size + (block if kind == CONTINUATION else 0)
        if size > LONGEST or block > LONGEST_BLOCK:
            return False
        if kind in (HEADERS, CONTINUATION) and flags & END_HEADERS:
            block = 0
        at += 9 + size
    return True
