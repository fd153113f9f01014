"""Changes to inputs, byte by byte and piece by piece: what both drivers make of the seeds.

A change is data, so that hypothesis can draw and shrink it; `random_changes` draws them where hypothesis is not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.fuzz.shape import LIMIT_INPUT_BYTES

# What parsers stumble over: edges of UTF-8, of numbers and of lengths, brackets, controls, and marks of direction.
PIECES = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\r\n",
    b"\n",
    b"\t",
    b"\xc0\x80",  # NUL in two bytes
    b"\xed\xa0\x80",  # a surrogate
    b"\xf4\x90\x80\x80",  # beyond the last character
    b"\xef\xbb\xbf",
    b"\xe2\x80\xae",
    b"\xcc\x81",  # a mark that joins what is before it
    b"\xc4\xb0",  # a capital that has no single lower-case letter
    b"\\ud800",
    b"\\u0000",
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
    b"'",
    b"\\",
    b":",
    b": ",
    b",",
    b"- ",
    b"/",
    b"..",
    b"&a ",
    b"*a",
    b"<<",
    b"!!x ",
    b"%",
    b"@",
    b"null",
    b"NaN",
    b"-0",
    b"1e999",
    b"1e-400",
    b"9007199254740993",
    b"9223372036854775808",
    b"18446744073709551616",
    b"0x7f.1",
    b"__proto__",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # protobuf's largest number
    b"\xff\xff\xff\xff\x0f",
    b"\x00\x00\x00\x00",
)


class Change(NamedTuple):
    """One change: its kind, two places and a length of which each kind takes what it wants, and a piece."""

    kind: int
    place: int
    other: int
    length: int
    piece: bytes


def _flip(data: bytes, change: Change, _seeds: Sequence[bytes]) -> bytes:
    if not data:
        return data
    at = change.place % len(data)
    return data[:at] + bytes([data[at] ^ 1 << change.other % 8]) + data[at + 1 :]


def _set(data: bytes, change: Change, _seeds: Sequence[bytes]) -> bytes:
    at = change.place % (len(data) + 1)
    return data[:at] + bytes([change.other % 256]) + data[at + 1 :]


def _cut(data: bytes, change: Change, _seeds: Sequence[bytes]) -> bytes:
    at = change.place % (len(data) + 1)
    return data[:at] + data[at + change.length :]


def _truncate(data: bytes, change: Change, _seeds: Sequence[bytes]) -> bytes:
    return data[: change.place % (len(data) + 1)]


def _insert(data: bytes, change: Change, _seeds: Sequence[bytes]) -> bytes:
    at = change.place % (len(data) + 1)
    return data[:at] + change.piece + data[at:]


def _replace(data: bytes, change: Change, _seeds: Sequence[bytes]) -> bytes:
    at = change.place % (len(data) + 1)
    return data[:at] + change.piece + data[at + len(change.piece) :]


def _repeat(data: bytes, change: Change, _seeds: Sequence[bytes]) -> bytes:
    at = change.place % (len(data) + 1)
    part = data[at : at + change.length]
    return data[:at] + part * (2 + change.other % 40) + data[at + len(part) :]


def _run(data: bytes, change: Change, _seeds: Sequence[bytes]) -> bytes:
    at = change.place % (len(data) + 1)
    return data[:at] + change.piece * (1 + change.other % 600) + data[at:]


def _move(data: bytes, change: Change, _seeds: Sequence[bytes]) -> bytes:
    at, to = change.place % (len(data) + 1), change.other % (len(data) + 1)
    return data[:to] + data[at : at + change.length] + data[to:]


def _splice(data: bytes, change: Change, seeds: Sequence[bytes]) -> bytes:
    donor = seeds[change.length % len(seeds)] if seeds else b""
    at, begin = change.place % (len(data) + 1), change.other % (len(donor) + 1)
    return data[:at] + donor[begin : begin + change.length * 4] + data[at:]


def _nest(data: bytes, change: Change, _seeds: Sequence[bytes]) -> bytes:
    opening, closing = ((b"[", b"]"), (b'{"a":', b"}"), (b"- ", b""), (b"a/", b""))[change.length % 4]
    at, levels = change.place % (len(data) + 1), 1 + change.other % 400
    end = data.find(b",", at) if b"," in data[at:] else len(data)
    return data[:at] + opening * levels + data[at:end] + closing * levels + data[end:]


KINDS: tuple[Callable[[bytes, Change, Sequence[bytes]], bytes], ...] = (
    _flip,
    _set,
    _cut,
    _truncate,
    _insert,
    _replace,
    _repeat,
    _run,
    _move,
    _splice,
    _nest,
)


def changed(data: bytes, changes: Sequence[Change], seeds: Sequence[bytes]) -> bytes:
    """The data after these changes, never longer than `LIMIT_INPUT_BYTES`."""
    for change in changes:
        data = KINDS[change.kind % len(KINDS)](data, change, seeds)[:LIMIT_INPUT_BYTES]
    return data


def random_changes(chance: random.Random, most: int = 4) -> list[Change]:
    """A few changes."""
    return [
        Change(
            chance.randrange(len(KINDS)),
            chance.randrange(LIMIT_INPUT_BYTES),
            chance.randrange(LIMIT_INPUT_BYTES),
            1 + chance.randrange(32),
            chance.choice(PIECES),
        )
        for _ in range(1 + chance.randrange(most))
    ]
